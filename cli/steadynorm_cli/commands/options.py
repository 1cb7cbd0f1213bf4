"""Options that several commands have, and how a run is named on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from steadynorm_cli.errors import CommandError
from steadynorm_contract.client import Client
from steadynorm_contract.runs import RunState, RunSummary

__all__ = ["AsJson", "Data", "Host", "Run", "Server", "console", "find_run", "number", "plain"]

Host = Annotated[str, typer.Option(envvar="STEADYNORM_HOST", help="Address to listen on.")]
Data = Annotated[
    Path | None,
    typer.Option(
        envvar="STEADYNORM_DATA",
        help="Folder of the store, the token and the logs. Default: $STEADYNORM_HOME, or ~/.steadynorm.",
    ),
]
Server = Annotated[
    str | None,
    typer.Option(envvar="STEADYNORM_SERVER", help="The server's address. Default: your own, if one runs."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id or name, or a unique beginning of one.")]


def find_run(client: Client, wanted: str) -> RunSummary:
    """The run that `wanted` means: an id, a name, or the beginning of one, whichever matches first in this order.

    Where several match and one of them is running, that one is meant. Raises CommandError, ClientError.
    """
    runs = client.runs().runs
    for matches in (
        [run for run in runs if run.run_id == wanted],
        [run for run in runs if run.name == wanted],
        [run for run in runs if run.run_id.startswith(wanted) or run.name.startswith(wanted)],
    ):
        live = [run for run in matches if run.state in (RunState.RUNNING, RunState.STALLED)]
        if len(matches) == 1 or len(live) == 1:
            return matches[0] if len(matches) == 1 else live[0]
        if matches:
            shown = "\n".join(f"  {run.run_id}  {run.name}  {run.state}" for run in matches[:10])
            more = f"\n  and {len(matches) - 10} more" if len(matches) > 10 else ""
            raise CommandError(f"{wanted!r} names {len(matches)} runs: say which by its id.\n{shown}{more}")
    known = ", ".join(run.run_id for run in runs[:5]) or "none yet"
    raise CommandError(f"no run on {client.server} is called {wanted!r} or begins with it. Newest: {known}.")


def number(value: float | None) -> str:
    """A measured number for people; a dash where there is none."""
    return "-" if value is None else f"{value:.4g}"


def plain(text: str) -> str:
    """Text that somebody chose, for a terminal: control characters are shown, not obeyed."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def console() -> Console:
    """Where tables go. A pipe has no width: nothing is cut there."""
    screen = Console()
    return screen if screen.is_terminal else Console(width=240)
