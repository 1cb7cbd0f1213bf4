"""How the dashboard is started: bound where it was told, quiet towards the world, and without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3
from tests.support.waiting import Eventually

import steadynorm_contract
import steadynorm_dashboard
from steadynorm_cli.ports import choose_port
from steadynorm_dashboard import launch
from steadynorm_dashboard.data.session import uses_home_token


def test_it_listens_where_it_was_told_and_sends_no_statistics() -> None:
    argv = launch.command(host="127.0.0.1", port=9001, server="http://127.0.0.1:8470")
    assert argv[:4] == [sys.executable, "-m", "streamlit", "run"]
    assert Path(argv[4]).name == "server.py"
    for option in (
        "--server.address=127.0.0.1",
        "--server.port=9001",
        "--browser.gatherUsageStats=false",
        "--logger.hideWelcomeMessage=true",
        "--server.fileWatcherType=none",
        "--server.headless=true",
        "--server.allowedHosts=127.0.0.1",
    ):
        assert option in argv
    assert argv[-3:] == ["--", "--server", "http://127.0.0.1:8470"]


def test_the_names_by_which_it_may_be_called_are_settable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYNORM_DASHBOARD_URL", "https://steadynorm.example.org/norms/")
    monkeypatch.setenv("STEADYNORM_DASHBOARD_HOSTS", "one.example, two.example")
    monkeypatch.setenv("STEADYNORM_DASHBOARD_BASE_PATH", "/norms/")
    argv = launch.command(host="0.0.0.0", allowed_hosts=["three.example"])
    named = [option.partition("=")[2] for option in argv if "allowedHosts" in option]
    assert named[3:] == ["three.example", "one.example", "two.example", "steadynorm.example.org"]
    assert "--server.baseUrlPath=norms" in argv
    assert "--server.baseUrlPath=other" in launch.command(base_path="other")


def test_an_open_dashboard_may_be_called_by_any_name() -> None:
    assert not [option for option in launch.command(host="0.0.0.0") if "allowedHosts" in option]
    assert "--" not in launch.command(server=None)


@pytest.mark.parametrize(
    ("server", "bound_to", "lends"),
    [
        ("http://127.0.0.1:8470", "127.0.0.1", True),
        ("http://localhost:8470", "localhost", True),
        ("http://127.0.0.1:8470", "0.0.0.0", False),
        ("http://127.0.0.1:8470", None, False),
        ("http://10.0.0.7:8470", "127.0.0.1", False),
        ("http://127.0.0.1.evil.example", "127.0.0.1", False),
    ],
)
def test_the_users_own_token_is_lent_to_everybody_only_on_loopback_and_where_that_is_said(
    server: str, bound_to: str | None, lends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not uses_home_token(server, bound_to)
    monkeypatch.setenv("STEADYNORM_DASHBOARD_SIGN_IN", "never")
    assert uses_home_token(server, bound_to) is lends


@pytest.mark.parametrize("header", ["X-Forwarded-For", "x-forwarded-proto", "Forwarded", "Via", "X-Real-IP"])
def test_who_comes_through_a_proxy_signs_in(header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYNORM_DASHBOARD_SIGN_IN", "never")
    assert uses_home_token(
        "http://127.0.0.1:8470", "127.0.0.1", {"Host": "localhost:8501", "Origin": "x", "Cookie": "x"}
    )
    assert not uses_home_token("http://127.0.0.1:8470", "127.0.0.1", {"Host": "localhost:8501", header: "x"})
    assert not uses_home_token("http://127.0.0.1:8470", "127.0.0.1", {"Host": "steadynorm.example.org"})


def test_where_several_people_use_a_machine_everybody_signs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYNORM_DASHBOARD_SIGN_IN", "always")
    assert not uses_home_token("http://127.0.0.1:8470", "127.0.0.1")


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        (("http://127.0.0.1:8501",), "http://127.0.0.1:8501/"),
        (("http://127.0.0.1:8501/", "a-1", "t&k"), "http://127.0.0.1:8501/?run=a-1&token=t%26k"),
    ],
)
def test_links_name_the_run_and_bring_the_token(arguments: tuple[str, ...], url: str) -> None:
    assert launch.link(*arguments) == url


def test_the_launcher_loads_neither_streamlit_nor_plotly_and_the_pages_never_torch() -> None:
    code = (
        "import sys, steadynorm_dashboard.launch\n"
        "assert not {'streamlit', 'plotly', 'torch'} & set(sys.modules)\n"
        "import steadynorm_dashboard.pages.run, steadynorm_dashboard.pages.runs\n"
        "assert 'torch' not in sys.modules and 'redis' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_it_starts_where_only_contract_and_dashboard_are_installed(tmp_path: Path, eventually: Eventually) -> None:
    rooms = [Path(str(package.__file__)).parent for package in (steadynorm_contract, steadynorm_dashboard)]
    for room in rooms:
        (tmp_path / room.name).symlink_to(room)
    checkout = [str(room.parents[1] / name) for room in rooms[:1] for name in os.listdir(room.parents[1])]
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.path[:] = [path for path in sys.path if path not in {checkout!r}]\n"
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    code = (
        "from importlib.util import find_spec\n"
        "found = [find_spec(n) for n in ('steadynorm', 'steadynorm_server', 'steadynorm_cli')]\n"
        "assert not any(spec and spec.origin for spec in found), found\n"  # a namespace of data files may be left
        "from steadynorm_dashboard.pages import change, compare, incident, parameter, run, runbook, runs\n"
    )
    pages = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environ, capture_output=True, text=True)
    assert pages.returncode == 0, pages.stderr
    port = choose_port("127.0.0.1", 0, 0, print)
    started = subprocess.Popen([sys.executable, "-m", "steadynorm_dashboard", "--port", str(port)], env=environ)
    try:

        def healthy() -> bool:
            assert started.poll() is None
            try:
                url = f"http://127.0.0.1:{port}{launch.HEALTH_PATH}"
                return urllib3.request("GET", url, timeout=5.0, retries=False).status == 200
            except urllib3.exceptions.HTTPError:
                return False

        eventually(healthy)
    finally:
        started.terminate()
        started.wait(30)
