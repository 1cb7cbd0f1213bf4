"""`steadynorm link`: a link, and whether anybody answers where it leads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from steadynorm_cli.commands.link import link
from steadynorm_cli.errors import CommandError

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.local_server import RunningStack


class AsHealthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/below/_stcore/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def healthy() -> Iterator[str]:
    """Address of something that answers as a dashboard below /below does."""
    with ThreadingHTTPServer(("127.0.0.1", 0), AsHealthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_link_to_a_dashboard_that_answers_is_all_there_is(steadynorm: Command, healthy: str) -> None:
    done = steadynorm("link", "--dashboard", f"{healthy}/below/")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{healthy}/below/link/")


def test_a_link_to_one_that_does_not_answer_from_here_comes_with_a_warning(steadynorm: Command, healthy: str) -> None:
    done = steadynorm("link", "--dashboard", healthy)  # as through a tunnel: it may well be there
    assert done.returncode == 0
    assert done.stdout.startswith(f"{healthy}/link/")
    assert done.stderr == f"warning: no dashboard answers at {healthy} from here.\n"


def test_a_link_that_leads_nowhere_is_printed_with_what_to_start(
    stack: RunningStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("steadynorm_cli.commands.link.answers", lambda url: False)
    for home, start in ((stack.home, "dashboard"), (tmp_path, "up")):  # with a server, and where one ran once
        monkeypatch.setenv("STEADYNORM_HOME", str(home))
        (tmp_path / "token").write_text("once")
        with pytest.raises(
            CommandError, match=r"no dashboard answers at http://127\.0\.0\.1:8501, so this link"
        ) as said:
            link()
        assert f"`steadynorm {start}`" in str(said.value)
        assert capsys.readouterr().out.startswith("http://127.0.0.1:8501/link/")
