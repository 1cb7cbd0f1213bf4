"""`steadynorm archive`, `unarchive`, `rename`, `delete` and `restore`: runs as a whole."""

from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.options import AsJson, Reason, Run, Server, find_run
from steadynorm_cli.commands.outcome import UNKNOWN, confirmed
from steadynorm_cli.commands.output import timestamp
from steadynorm_cli.errors import CommandError, plain
from steadynorm_contract.client import Client, ClientError, OutcomeUnknown
from steadynorm_contract.lifecycle import DEFAULT_GRACE_S, MAX_GRACE_S, TRAINS_ON, RunUpdate, Visibility
from steadynorm_contract.runs import RunDetail, RunSummary
from steadynorm_contract.words import counted

Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids or names of runs, or unique prefixes.")]
_MINUTE_S = 60.0


def archive(runs: Runs, reason: Reason = "", server: Server = None, as_json: AsJson = False) -> None:
    """Hide runs from lists, and keep them. A live run is refused."""

    def act(client: Client, run: RunSummary) -> tuple[RunDetail | None, str]:
        done = confirmed(lambda: client.update(run.run_id, RunUpdate(archived=True, reason=reason)))
        return done, f"archived; back: steadynorm unarchive {run.run_id}"

    _each(Client(server), runs, [Visibility.LISTED], act, as_json)


def unarchive(runs: Runs, reason: Reason = "", server: Server = None, as_json: AsJson = False) -> None:
    """List archived runs again."""

    def act(client: Client, run: RunSummary) -> tuple[RunDetail | None, str]:
        return confirmed(lambda: client.update(run.run_id, RunUpdate(archived=False, reason=reason))), "listed again"

    _each(Client(server), runs, [Visibility.ARCHIVED], act, as_json)


def rename(
    run: Run,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name to show. The run's id stays.")],
    reason: Reason = "",
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Show a run under another name. Tokens bound to names keep to the one that its agent gave."""

    def act(client: Client, found: RunSummary) -> tuple[RunDetail | None, str]:
        done = confirmed(lambda: client.update(found.run_id, RunUpdate(name=name, reason=reason)))
        return done, f"{plain(found.name)} → {plain(done.name)}"

    _each(Client(server), [run], [Visibility.LISTED, Visibility.ARCHIVED], act, as_json)


def delete(
    runs: Runs,
    grace: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=MAX_GRACE_S / _MINUTE_S,
            metavar="MINUTES",
            help=f"How long `restore` can bring the runs back. Default: {DEFAULT_GRACE_S / _MINUTE_S:g}.",
        ),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Remove them at once, for good.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --now: do not ask.")] = False,
    reason: Reason = "",
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Delete runs with their data; `restore` brings them back for a time. A live run is refused."""
    if now and (grace is not None or reason):
        option = "--reason" if grace is None else "--grace"
        raise CommandError(f"{option} has no effect with --now, which removes the run and its audit list at once.", 2)
    grace_s = DEFAULT_GRACE_S if grace is None else grace * _MINUTE_S
    client, visibility = Client(server), list(Visibility) if now else [Visibility.LISTED, Visibility.ARCHIVED]
    if now and not yes:
        # The question names what is removed: a unique prefix may be of another run than the user has in mind.
        runs = [find_run(client, name, visibility).run_id for name in runs]
        typer.confirm(
            f"Remove {counted(len(runs), 'run')} with all data, for good: {', '.join(runs)}?", abort=True, err=True
        )

    def act(client: Client, run: RunSummary) -> tuple[RunDetail | None, str]:
        if now:
            if run.state.is_live and run.connected:
                stop = f"steadynorm set {run.run_id} stop=true"
                raise CommandError(f"run {run.run_id} is live. Stop it first (`{stop}`), then delete it. {TRAINS_ON}.")
            confirmed(lambda: client.delete(run.run_id))
            return None, "removed"
        confirmed(lambda: client.delete(run.run_id, grace_s=grace_s, reason=reason))
        done = client.run(run.run_id)
        until = timestamp(done.deletes_at or 0.0)
        return done, f"deleted; it is removed at {until}. Until then: steadynorm restore {run.run_id}"

    _each(client, runs, visibility, act, as_json)


def restore(runs: Runs, reason: Reason = "", server: Server = None, as_json: AsJson = False) -> None:
    """Bring back deleted runs that are not removed yet."""

    def act(client: Client, run: RunSummary) -> tuple[RunDetail | None, str]:
        return confirmed(lambda: client.restore(run.run_id, reason=reason)), "restored"

    _each(Client(server), runs, [Visibility.DELETED], act, as_json)


def _each(
    client: Client,
    names: Sequence[str],
    visibility: Sequence[Visibility],
    act: Callable[[Client, RunSummary], tuple[RunDetail | None, str]],
    as_json: bool,
) -> None:
    """Find and act on each run; one that fails does not hold up the others. Raises CommandError at the end."""
    failed: list[str] = []
    unknown: list[str] = []
    for name in names:
        try:
            run = find_run(client, name, visibility)
            done, words = act(client, run)
        except (ClientError, CommandError) as error:
            if len(names) == 1:
                raise
            is_unknown = isinstance(error, OutcomeUnknown) or getattr(error, "code", None) == UNKNOWN
            (unknown if is_unknown else failed).append(name)
            typer.echo(plain(f"{name}: {error}"), err=True)
            continue
        if as_json:
            typer.echo(msgspec.json.encode(done or {"run_id": run.run_id, "removed": True}))
        else:
            typer.echo(f"{run.run_id}: {words}")
    said = [
        f"{len(which)} of {counted(len(names), 'run')} {what}: {', '.join(which)}"
        for which, what in ((failed, "refused"), (unknown, "with an unknown outcome"))
        if which
    ]
    if said:
        raise CommandError("; ".join(said), UNKNOWN if unknown else 1)
