"""`steadynorm watch`: a run in the terminal, refreshed once a second."""

import math
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.cells import cell_len
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from steadynorm_cli.commands.events import event_line
from steadynorm_cli.commands.options import Run, Server, find_run
from steadynorm_cli.commands.output import console, number, style_of
from steadynorm_cli.commands.runs import health_of
from steadynorm_cli.errors import plain
from steadynorm_contract.client import Client
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.runs import RevisionState, RunDetail
from steadynorm_contract.scalars import ScalarView
from steadynorm_contract.series import Series
from steadynorm_contract.signals import signal

SERIES = ("loss", "raw_norm", "stabilized_norm")
_NUMBERS = (*SERIES, "target_min")
STEPS = 240
"""Steps that a sparkline reaches back."""
WIDTH = 60
EVENTS = 8
SCALARS = 12
"""Logged scalars that are shown, the first ones."""
EVERY_S = 1.0
_STYLE = {
    EventKind.SPIKE: "yellow",
    EventKind.THROTTLED: "yellow",
    EventKind.STALLED: "yellow",
    EventKind.NONFINITE: "red",
    EventKind.ROLLBACK: "yellow",
    EventKind.ROLLBACK_ADVISED: "yellow",
    EventKind.UNRECOVERABLE: "red",
    EventKind.AGENT_ERROR: "red",
    EventKind.RANK_FAILED: "red",
    EventKind.RANK_MISMATCH: "red",
}
BLOCKS = "▁▂▃▄▅▆▇█"


def watch(
    run: Run,
    once: Annotated[bool, typer.Option("--once", help="Print the present state and exit.")] = False,
    server: Server = None,
) -> None:
    """Watch a run until it ends, or Ctrl-C: speed, loss, norms, its own scalars, health, settings, newest events."""
    client = Client(server)
    run_id = find_run(client, run).run_id
    screen = console()
    detail, picture = _look(client, run_id, screen.width)
    if once:
        screen.print(picture)
        return
    with Live(picture, console=screen, auto_refresh=False) as live:
        while detail.state.is_live:
            time.sleep(EVERY_S)
            detail, picture = _look(client, run_id, screen.width)
            live.update(picture, refresh=True)


def _look(client: Client, run_id: str, width: int) -> tuple[RunDetail, Group]:
    detail = client.run(run_id)
    logged = [each.name for each in detail.scalars[:SCALARS] if each.step is not None]
    series = client.series(run_id, [*SERIES, *logged], start=max(0, detail.step - STEPS), points=WIDTH).series
    return detail, _picture(detail, series, client.events(run_id, limit=EVENTS).events, width)


def _picture(run: RunDetail, series: dict[str, Series], events: Sequence[Event], width: int) -> Group:
    """In a terminal of `width` cells. Where a sparkline is too long, its newest part is shown."""
    speed = "" if run.steps_per_s is None else f"{run.steps_per_s:.3g} steps/s"
    health = Text.assemble("health ", (health_of(run), style_of(health_of(run)))) if run.state.is_live else Text()
    rows: list[tuple[str, Text, Text | str]] = [  # a plain string is a sparkline
        ("run", Text(), Text(f"{plain(run.run_id)}  {plain(run.name)}")),
        ("state", Text(run.condition, style_of(run.condition)), health),
        ("step", Text(str(run.step)), Text(speed)),
        *((signal(name).title, Text(number(getattr(run, name))), _drawn(series, name)) for name in _NUMBERS),
        *((_label(each), Text(_newest(each)), _drawn(series, each.name)) for each in run.scalars[:SCALARS]),
        ("settings", Text(f"r{run.applied.revision}"), Text(_settings(run))),
    ]
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(justify="right", no_wrap=True)
    facts.add_column(no_wrap=True)
    left = max(8, width - max(cell_len(name) for name, *_ in rows) - max(value.cell_len for _, value, _ in rows) - 4)
    for name, value, more in rows:
        shown = Text(more[-left:]) if isinstance(more, str) else more
        shown.truncate(left, overflow="ellipsis")  # else rich takes from all columns
        facts.add_row(Text(name), value, shown)
    if (others := len(run.scalars) - SCALARS) > 0:
        facts.add_row("", "", Text(f"and {others} more logged scalars", "dim"))
    return Group(facts, Text(), *(_event(event) for event in events))


def _label(scalar: ScalarView) -> str:
    return plain(f"{scalar.name} ({scalar.unit})" if scalar.unit else scalar.name)


def _newest(scalar: ScalarView) -> str:
    bad = f" ({scalar.nonfinite} not finite)" if scalar.nonfinite else ""
    return f"{number(scalar.value)}{bad}"


def _event(event: Event) -> Text:
    """The whole message, in as many lines as it takes, in the color of what happened."""
    return Text(event_line(event), overflow="fold", style=_STYLE.get(event.kind, ""))


def _settings(run: RunDetail) -> str:
    since = f"applied since step {run.applied.step}"
    if run.desired.revision == run.applied.revision or run.desired.state is RevisionState.APPLIED:
        return since
    return f"{since}; r{run.desired.revision} {run.desired.state}"


def _drawn(series: dict[str, Series], name: str) -> str:
    if name not in series:
        return ""
    return sparkline(series[name].max, log=name in SERIES and signal(name).scale == "log")


def sparkline(values: Sequence[float | None], *, log: bool = False) -> str:
    """One block per value, scaled to the range of the values; a space where there is none. log: logarithmic."""
    heights = [_height(value, log) for value in values]
    known = [height for height in heights if height is not None]
    if not known:
        return ""
    low, span = min(known), (max(known) - min(known)) or 1.0
    top = len(BLOCKS) - 1
    return "".join(" " if height is None else BLOCKS[round((height - low) / span * top)] for height in heights)


def _height(value: float | None, log: bool) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    if not log:
        return value
    return math.log10(value) if value > 0 else None
