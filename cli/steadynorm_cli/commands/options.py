"""Options that several commands share, and how a run is named on the command line."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from steadynorm_cli.errors import CommandError
from steadynorm_contract.client import Client, NotFound
from steadynorm_contract.discovery import check_address
from steadynorm_contract.knobs import near_names
from steadynorm_contract.lifecycle import Visibility
from steadynorm_contract.runs import RunSummary


def _checked(server: str | None) -> str | None:
    try:
        return check_address(server) if server else server
    except ValueError as error:
        raise CommandError(str(error), 2) from None


Host = Annotated[str, typer.Option(envvar="STEADYNORM_HOST", help="Address to listen on.")]
Data = Annotated[
    Path | None,
    typer.Option(
        envvar="STEADYNORM_DATA",
        help="Folder of the embedded Redis, the token and the logs. Default: $STEADYNORM_HOME, or ~/.steadynorm.",
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        envvar="STEADYNORM_SERVER",
        metavar="URL",
        callback=_checked,
        help="Address of the server. Default: your own, if one is running.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Id or name of a run, or a unique prefix of one.")]
Changes = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME=VALUE...",
        help="For example gamma2=0.99 spike_limit=off preset=robust reset_generation=+1",
    ),
]
Reason = Annotated[str, typer.Option(help="The reason, for the run's audit list.")]
Wait = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, help="Seconds to wait until the job has applied the change.")
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait.")]

_NEAR = 200  # of the newest runs, among whose names one is looked for that was meant
_RUN_ID = re.compile(r"\w[\w.-]*", re.ASCII)


def find_run(client: Client, named: str, visibility: Sequence[str] = ()) -> RunSummary:
    """The run with this id, else with this name, else with a name and then an id that begin so.

    visibility: of those that are looked for by name, see `Visibility`; none: `listed`.

    Where several match and one of them is live, it is that one. Raises CommandError, ClientError.
    """
    if _RUN_ID.fullmatch(named):
        try:
            return client.run(named)
        except NotFound:
            pass
    found = client.runs(name=f"{glob.escape(named)}*", visibility=visibility).runs if named else []
    matches = [run for run in found if run.name == named] or found
    if not matches and named:
        matches = [
            run for run in client.fleet(search=named, visibility=visibility).runs if run.run_id.startswith(named)
        ]
    live = [run for run in matches if run.state.is_live]
    for candidates in (matches, live):
        if len(candidates) == 1:
            return candidates[0]
    if matches:
        shown = "\n".join(f"  {run.run_id}  {run.name}  {run.state}" for run in matches[:10])
        more = f"\n  and {len(matches) - 10} more" if len(matches) > 10 else ""
        raise CommandError(f"{named!r} matches {len(matches)} runs: use an id.\n{shown}{more}")
    raise CommandError(_none_found(client, named, visibility))


def _none_found(client: Client, named: str, visibility: Sequence[str]) -> str:
    every = client.runs(name=f"{glob.escape(named)}*", visibility=list(Visibility)).runs if named else []
    for run in every:
        if run.visibility is Visibility.LISTED:  # and was looked for among others
            return f"{run.run_id} is neither archived nor deleted."
        if run.visibility.value not in (visibility or [Visibility.LISTED]):
            back = "restore" if run.visibility is Visibility.DELETED else "unarchive"
            return f"{run.run_id} is {run.visibility}: `steadynorm {back} {run.run_id}` lists it again."
    newest = client.runs(limit=_NEAR).runs
    near = near_names(named, [name for run in newest for name in (run.name, run.run_id)])[:1]
    said = f"no run on {client.server} has the id or name {named!r} or one that begins so."
    if near:
        return f"{said} Did you mean {near[0]}?"
    return f"{said} Newest: {', '.join(run.run_id for run in newest[:5]) or 'none yet'}."
