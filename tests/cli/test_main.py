"""The entry of the command line: what it says without arguments, and when an extra is not installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from steadynorm_contract import __version__


def call(*arguments: str, hide: str = "") -> subprocess.CompletedProcess[str]:
    """The command line in a fresh interpreter in which the packages `hide` cannot be imported."""
    code = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hide.split()!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
sys.argv = ["steadynorm", *{list(arguments)!r}]
from steadynorm_cli.main import main
main()
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_version() -> None:
    assert call("--version").stdout == f"steadynorm {__version__}\n"


def test_help_lists_every_command() -> None:
    shown = call("--help").stdout
    for command in ("up", "server", "dashboard", "runs", "show", "set", "demo", "note", "archive", "token"):
        assert f"\n│ {command} " in shown
    assert re.findall(r"╭─ (.+?) ─", shown) == [
        "Options",
        "Start",
        "Look",
        "Change",
        "Archive and delete",
        "Run a server",
    ]
    assert "…" not in shown


@pytest.mark.slow
def test_help_names_values_rather_than_types() -> None:
    for command in ((), ("rules",), ("set",), ("runs",), ("link",), ("token",), ("token", "new")):
        shown = call(*command, "--help").stdout
        usage = next(line for line in shown.splitlines() if "Usage:" in line)
        assert not re.search(r"[{}]|\[\[", usage), usage
        assert not re.search(r"<[a-z]+[>\[]|…", shown)
        assert not re.search(r"\[?\b[a-z]+\b\]?$", usage.split("[OPTIONS]")[1].rstrip()), usage


def test_what_is_no_address_is_one_sentence() -> None:
    for command, address in (("runs", "nonsense"), ("dashboard", "127.0.0.1:8470")):
        ended = call(command, "--server", address)
        assert ended.returncode == 2
        assert ended.stderr.startswith(
            f"error: server must be an address such as http://127.0.0.1:8470: got {address!r}."
        )
        assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "hidden", "extra"),
    [
        (["runs"], "typer", "cli"),
        (["runs"], "rich", "cli"),
        (["server"], "fastapi", "server"),
        (["server"], "redis", "server"),
        (["dashboard"], "streamlit", "dashboard"),
        (["up"], "streamlit", "dashboard"),
        (["demo"], "torch", "demo"),
    ],
)
def test_a_missing_extra_is_named_with_what_to_install(arguments: list[str], hidden: str, extra: str) -> None:
    ended = call(*arguments, hide=hidden)
    assert ended.returncode == 1
    assert hidden in ended.stderr
    assert f"pip install 'steadynorm[{extra}]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_listing_runs_needs_no_web_stack() -> None:
    ended = call("runs", "--server", "http://127.0.0.1:9", hide="fastapi uvicorn redis streamlit torch")
    assert ended.stderr.startswith("error: no steadynorm server answers")


def test_a_wrong_configuration_is_one_sentence() -> None:
    ended = call("server", "--host", "0.0.0.0", "--port", "0")
    assert ended.returncode == 1
    assert "without configured tokens the server listens on loopback only" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_output_that_cannot_be_written_is_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "steadynorm_cli", "--version"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: what this command prints cannot be written: No space left on device. Make room, or write to another "
        "place.\n"
    )


def test_a_terminal_without_arrows_gets_something_in_their_place(tmp_path: Path) -> None:
    plain = {**os.environ, "PYTHONIOENCODING": "latin-1", "STEADYNORM_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "steadynorm_cli", "doctor", "--server", "http://127.0.0.1:9"]
    ended = subprocess.run(command, capture_output=True, env=plain, timeout=60, check=False)
    assert ended.returncode == 1
    assert b" ? start one with `steadynorm up`" in ended.stdout
    assert ended.stderr == b""


def test_a_value_that_is_none_of_the_words_is_told_in_plain_words() -> None:
    ended = call("runs", "--state", "runing")
    assert ended.returncode == 2
    assert "Invalid value for '--state': 'runing' is not one of 'running'," in ended.stderr
