"""`steadynorm proposals`: changes that others propose, such as agents through `steadynorm mcp`."""

from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from steadynorm_cli.commands.options import AsJson, Reason, Run, Server, find_run
from steadynorm_cli.commands.outcome import confirmed
from steadynorm_cli.commands.output import assignments, console, table, tell
from steadynorm_cli.errors import CommandError, plain
from steadynorm_contract.client import Client
from steadynorm_contract.proposals import Proposal, ProposalState

_STYLE = {
    ProposalState.OPEN: "bold",
    ProposalState.APPROVED: "green",
    ProposalState.WITHIN_BUDGET: "green",
    ProposalState.REFUSED: "red",
}


def proposals(
    run: Run,
    approve: Annotated[str | None, typer.Option(metavar="ID", help="Make this change.")] = None,
    refuse: Annotated[str | None, typer.Option(metavar="ID", help="Refuse it.")] = None,
    reason: Reason = "",
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Print changes that were proposed for a run, open ones first; approve or refuse one.

    One that is based on settings which were changed since can only be refused.
    """
    if approve is not None and refuse is not None:
        raise CommandError("use --approve or --refuse, not both.", 2)
    client = Client(server)
    run_id = find_run(client, run).run_id
    known = client.proposals(run_id)
    if (chosen := refuse if approve is None else approve) is not None:
        found = next((each for each in known.proposals if each.id == chosen), None)
        if found is None:
            raise CommandError(f"{run_id} has no proposal {chosen!r}: `steadynorm proposals {run_id}` lists them.")
        done = confirmed(
            lambda: client.decide(run_id, found.id, approve=approve is not None, revision=found.revision, reason=reason)
        )
        if as_json:
            typer.echo(msgspec.json.encode(done))
            return
        made = f", as revision {done.made}" if done.made is not None else ""
        typer.echo(f"{run_id}: {plain(assignments(done.settings))} is {done.state}{made}")
        return
    if as_json:
        typer.echo(msgspec.json.encode(known))
        return
    if not known.proposals:
        tell(f"{run_id} has no proposals")
        return
    listed = table("ID", "STATE", "CHANGE", "BY", "WHY", "DECISION", fixed=("ID", "STATE"))
    for each in known.proposals:
        style, state = _STYLE[each.state], each.state.value
        if each.state is ProposalState.OPEN and each.revision != known.revision:
            style, state = "yellow", "outdated"
        cells = (assignments(each.settings), each.proposed_by, each.reason, _decision(each))
        listed.add_row(each.id, f"[{style}]{state}[/{style}]", *(escape(plain(cell)) for cell in cells))
    console().print(listed)


def _decision(each: Proposal) -> str:
    if each.state is ProposalState.OPEN:
        return ""
    made = f"revision {each.made}" if each.made is not None else ""
    return " ".join(part for part in (each.decided_by, made, each.decision) if part)
