"""The lines that page and command show to a newcomer are run as they stand, and record a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from tests.support.dashboard import APP
from tests.support.interpreter import Interpreter
from tests.support.local_server import clean_environment

from steadynorm_contract.client import Client
from steadynorm_contract.discovery import ELSEWHERE

BEFORE = """
import torch
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
AFTER = """
for _ in range(3):
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
agent.close()
"""


@contextmanager
def served(home: Path, *, data: Path | None = None, end: signal.Signals = signal.SIGTERM) -> Iterator[str]:
    """`steadynorm server` of a user with this home folder, and what it announces."""
    argv = [sys.executable, "-m", "steadynorm_cli", "server", "--port", "0", *(("--data", str(data)) if data else ())]
    with subprocess.Popen(argv, env=clean_environment(home), stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = ""
        while "/docs" not in said:
            line = server.stderr.readline()
            assert line, said
            said += line
        try:
            yield said
        finally:
            server.send_signal(end)
            server.stderr.read()


def trained(python: Interpreter, lines: str, home: Path, **variables: str) -> str:
    """What a training script with these lines prints."""
    environment = clean_environment(home) | variables | {"OMP_NUM_THREADS": "1"}
    done = python.run("-c", BEFORE + lines + AFTER, env=environment)
    done.check_returncode()
    return done.stderr


def shown_by_the_command(home: Path) -> str:
    """What `steadynorm runs` advises while there is none."""
    argv = [sys.executable, "-m", "steadynorm_cli", "runs"]
    done = subprocess.run(argv, env=clean_environment(home), capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.startswith("no runs yet on ")
    return done.stderr.partition("\n\n")[2]


def shown_by_the_page(home: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> str:
    """What the dashboard's first page advises while there is none."""
    monkeypatch.setenv("STEADYNORM_HOME", str(home))
    monkeypatch.setenv("STEADYNORM_SERVER", server)
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.query_params["token"] = (home / "token").read_text().strip()
    app.run()
    return next(str(code.value) for code in app.code if "attach(" in str(code.value))


def test_the_shown_lines_record_a_run_and_say_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Interpreter
) -> None:
    with served(tmp_path) as said:
        client = Client(said.split()[3], (tmp_path / "token").read_text().strip())
        shown = [shown_by_the_command(tmp_path), shown_by_the_page(tmp_path, monkeypatch, client.server)]
        for count, lines in enumerate(shown, 1):
            printed = trained(python, lines, tmp_path)
            runs = client.runs().runs
            assert len(runs) == count
            assert runs[0].name == "my-run"
            assert f"steadynorm: run {runs[0].run_id} is recorded at http://127.0.0.1" in printed
        assert "not recorded" in trained(python, shown[0], tmp_path, STEADYNORM_SERVER="")
        assert len(client.runs().runs) == 2


def test_a_server_on_another_folder_is_found_with_its_token_while_it_lives(tmp_path: Path, python: Interpreter) -> None:
    home, data = tmp_path / "home", tmp_path / "data"
    with served(home, data=data, end=signal.SIGKILL) as said:
        assert f"{data / 'token'}: tools of this user find it themselves" in said
        lines = shown_by_the_command(home)
        assert "server=" not in lines
        trained(python, lines, home)
        assert [run.name for run in Client(said.split()[3], (data / "token").read_text().strip()).runs().runs] == [
            "my-run"
        ]
    assert (home / ELSEWHERE).exists(), "it was killed"
    assert "no server is given" in trained(python, lines, home)
    with served(home, data=tmp_path / "third"):
        assert "is recorded at" in trained(python, lines, home)
    assert not (home / ELSEWHERE).exists()
    assert os.listdir(home) == []
