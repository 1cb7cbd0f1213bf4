"""`steadynorm runs`: a table of the runs that fits the terminal, those that need attention first."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import typer
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from steadynorm_cli.commands.options import AsJson, Server
from steadynorm_cli.commands.output import ago, console, number_column, style_of, tell
from steadynorm_cli.errors import CommandError, plain
from steadynorm_contract.client import Client
from steadynorm_contract.discovery import attach_lines
from steadynorm_contract.fleet import MAX_COLUMNS, FleetRun
from steadynorm_contract.incidents import IncidentState
from steadynorm_contract.runs import Health, RunState, RunSummary

_ALWAYS = ("NAME", "STATE", "HEALTH", "STEP", "AGE", "SEEN")
_OPTIONAL = ("TAKEN BY", "LOSS", "NORM", "TARGET", "SETTINGS", "ID")
"""Shown from left to right as far as the terminal is wide enough."""
_RIGHT = frozenset({"STEP", "AGE", "SEEN", "LOSS", "NORM", "TARGET"})
_NAME_CELLS = 24
"""Of a name that are shown before optional columns are."""
_LEAST_NAME_CELLS = 8
_GAP = 2
_MOST = 1000
"""Runs in one list: the server's limit."""


def _one_of(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}"


def runs(
    state: Annotated[
        list[RunState] | None,
        typer.Option(metavar="STATE", help=f"Only runs that are {_one_of(RunState)}; repeatable."),
    ] = None,
    health: Annotated[
        list[Health] | None, typer.Option(metavar="HEALTH", help=f"Only runs that are {_one_of(Health)}; repeatable.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only runs with this tag, or KEY alone; repeatable.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Only runs whose whole name matches, such as gpt-*.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=_MOST, help="List at most N runs. Default: 50; all with --json."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Logged scalars as columns, with their newest values: eval/loss,entropy. Not with --json.",
        ),
    ] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """List the runs, those that need attention first; with --json the newest first."""
    client = Client(server)
    scalars = [each.strip() for each in (columns or "").split(",") if each.strip()]
    if len(scalars) > MAX_COLUMNS or (scalars and as_json):
        rule = "does not go with --json: `steadynorm show RUN --json` has a run's logged scalars"
        why = rule if as_json else f"takes at most {MAX_COLUMNS} names: got {len(scalars)}"
        raise CommandError(f"--columns {why}.", 2)
    states, healths, tags = state or (), health or (), tag or ()
    if as_json:
        typer.echo(msgspec.json.encode(client.runs(state=states, health=healths, name=name, tag=tags, limit=limit)))
        return
    found = client.fleet(state=states, health=healths, name=name, tag=tags, limit=limit or 50, scalars=scalars)
    if not found.total:
        tell(f"no runs yet on {client.server}. In a training script:\n\n{attach_lines(client.server)}")
        return
    if not found.runs:
        tell(f"no run matches, of {found.total} on {client.server}")
        return
    screen = console()
    screen.print(runs_table(found.runs, screen.width, every_column=not screen.is_terminal, scalars=scalars))
    if (more := found.matching - len(found.runs)) > 0:
        how = f"--limit {found.matching} lists them" if found.matching <= _MOST else "--json lists all of them"
        tell(f"and {more} more: {how}")


def runs_table(
    listed: Sequence[RunSummary], width: int, *, every_column: bool = False, scalars: Sequence[str] = ()
) -> Table:
    """The table in at most `width` cells. The name gives way first, then optional columns are left out.

    every_column: nothing is left out or cut. scalars: logged ones, which have a column each and are never left out.
    """
    cells = _cells(listed)
    chosen = {plain(name) if name not in cells else f"{name} (logged)": _logged(listed, name) for name in scalars}
    cells |= chosen
    always = (*_ALWAYS, *chosen)
    widths = {title: max(map(cell_len, (title, *column))) for title, column in cells.items()}
    shown = [*always]
    left = width - min(widths["NAME"], _NAME_CELLS) - sum(widths[title] + _GAP for title in always[1:])
    for title in _OPTIONAL:
        if title == "TAKEN BY" and not any(cells[title]):
            continue
        if left < widths[title] + _GAP and not every_column:
            break
        left -= widths[title] + _GAP
        shown.append(title)
    name = widths["NAME"] if every_column else max(_LEAST_NAME_CELLS, min(widths["NAME"], _NAME_CELLS) + left)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for title in shown:
        right = title in _RIGHT or title in chosen
        table.add_column(escape(title), justify="right" if right else "left", no_wrap=True, overflow="crop")
    for row, run in enumerate(listed):
        texts = [Text(cells[title][row]) for title in shown]
        texts[0] = Text(shortened(cells["NAME"][row], name))
        texts[1].stylize(style_of(run.condition))
        texts[2].stylize(style_of(health_of(run)))
        table.add_row(*texts)
    return table


def _cells(listed: Sequence[RunSummary]) -> dict[str, list[str]]:
    """The texts of each column."""
    named = Counter(run.name for run in listed)
    return {
        "NAME": [plain(run.name if named[run.name] == 1 else run.run_id) for run in listed],
        "STATE": [run.condition for run in listed],
        "HEALTH": [health_of(run) for run in listed],
        "STEP": [str(run.step) for run in listed],
        "AGE": [ago(run.started) for run in listed],
        "SEEN": [ago(run.last_seen) for run in listed],
        "TAKEN BY": [plain(holder(run)) for run in listed],
        "LOSS": number_column([run.loss for run in listed]),
        "NORM": number_column([run.raw_norm for run in listed]),
        "TARGET": number_column([run.target_min for run in listed]),
        "SETTINGS": [_revision(run) for run in listed],
        "ID": [run.run_id for run in listed],
    }


def _logged(listed: Sequence[RunSummary], name: str) -> list[str]:
    return number_column([run.scalars.get(name) if isinstance(run, FleetRun) else None for run in listed])


def holder(run: RunSummary) -> str:
    """Who deals with the latest incident of the run that is not closed; empty: nobody."""
    return next((each.by for each in run.incidents if each.state is IncidentState.TAKEN), "")


def shortened(text: str, cells: int) -> str:
    """The text in at most so many cells, without its middle: names of a sweep differ at their ends."""
    if cell_len(text) <= cells:
        return text
    head, tail = text, ""
    while head and cell_len(head) > (cells - 1) * 3 // 5:
        head = head[:-1]
    for character in reversed(text[len(head) :]):
        if cell_len(head) + 1 + cell_len(character + tail) > cells:
            break
        tail = character + tail
    return f"{head}…{tail}"


def health_of(run: RunSummary) -> str:
    """Of a live run its health, where a paused one is not stalled; of an ended one how it ended, or that something was
    NaN or infinite."""
    if run.state.is_live:
        return run.condition if run.health is Health.STALLED else run.health
    return Health.NONFINITE if run.counters.nonfinite else run.state


def _revision(run: RunSummary) -> str:
    if run.desired.revision == run.applied.revision:
        return f"r{run.applied.revision}"
    return f"r{run.applied.revision} → r{run.desired.revision} {run.desired.state}"
