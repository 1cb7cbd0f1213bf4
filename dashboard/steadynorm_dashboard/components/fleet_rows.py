"""Rows of the runs table in the form that its script draws: formatted text, colors and paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from steadynorm_contract.fleet import FleetRun, LastChange, Spark
from steadynorm_contract.runs import RevisionState, RunState
from steadynorm_contract.signals import signal
from steadynorm_dashboard.components import sparkline
from steadynorm_dashboard.formatting import changes, escaping, numbers, status, timeline

Row = dict[str, object]

COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("run", "run", "name", "-name"),
    ("health", "health", "severity", "severity"),
    ("state", "state", "", ""),
    ("step", "step", "-step", "step"),
    ("speed", "steps/s", "-steps_per_s", "steps_per_s"),
    ("loss", signal("loss").title, "-loss", "loss"),
    ("norm", f"{signal('raw_norm').title} (log)", "-raw_norm", "raw_norm"),
    ("target", "target", "", ""),
    ("change", "last change", "", ""),
    ("started", "started", "-started", "started"),
    ("ran", "ran for", "", ""),
    ("seen", "last seen", "-last_seen", "last_seen"),
)
"""Key, title, and the sort orders of a first and a second click on the title; empty: not sortable."""

_TAGS = 4


def columns(scalars: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """COLUMNS, with one for each of these logged scalars behind the target."""
    at = 1 + next(place for place, each in enumerate(COLUMNS) if each[0] == "target")
    own = [(f"scalar{number}", escaping.visible(name, 40), "", "") for number, name in enumerate(scalars)]
    return [*COLUMNS[:at], *own, *COLUMNS[at:]]


def rows(runs: Iterable[FleetRun], now: float, group: str = "", scalars: Sequence[str] = ()) -> list[Row]:
    """One row per run. All values are plain text, which the script inserts as text and never as HTML.

    group: key of the tag by which the runs are grouped. scalars: logged ones that have columns.
    """
    return [
        _row(run, now)
        | ({"group": run.tags.get(group, "")} if group else {})
        | {f"scalar{number}": numbers.number(run.scalars.get(name)) for number, name in enumerate(scalars)}
        for run in runs
    ]


def headings(groups: Mapping[str, int], group: str) -> dict[str, str]:
    """The heading of each group, by the value of the tag."""
    key = escaping.visible(group, 40)
    return {
        value: f"{key}={escaping.visible(value, 60)} · {count:,}" if value else f"without {key} · {count:,}"
        for value, count in groups.items()
    }


def badges(runs: Iterable[FleetRun]) -> dict[str, Row]:
    """The badge of each word for health and state, once for all rows."""
    found = {badge.word: badge for run in runs for badge in (_health(run), status.state_of(run))}
    return {
        word: {"color": badge.color, "icon": badge.icon.strip(":").partition("/")[2], "help": badge.help}
        for word, badge in found.items()
    }


def _row(run: FleetRun, now: float) -> Row:
    return {
        "id": run.run_id,
        "name": escaping.visible(run.name, 80),
        "about": escaping.visible(_about(run), 400),
        "tags": [escaping.visible(words, 32) for words in [timeline.holder_words(run.incidents)] if words]
        + [escaping.visible(f"{key}={value}", 32) for key, value in list(run.tags.items())[:_TAGS]],
        "more_tags": max(0, len(run.tags) - _TAGS),
        "health": _health(run).word,
        "state": status.state_of(run).word,
        "faded": not run.state.is_live and run.state is not RunState.FAILED,
        "step": numbers.number(run.step),
        "speed": numbers.number(run.steps_per_s, 3) if run.state is RunState.RUNNING else numbers.MISSING,
        "loss": _line("loss", run.loss, run.loss_spark),
        "norm": _line("raw_norm", run.raw_norm, run.norm_spark),
        "target": numbers.number(run.target_min, 3),
        "change": _change(run.last_change, now),
        "started": f"{numbers.duration(now - run.started)} ago",
        "ran": numbers.duration(run.last_seen - run.started),
        "seen": f"{numbers.duration(now - run.last_seen)} ago",
    }


def _about(run: FleetRun) -> str:
    registered = f", registered as {run.registered_name}" if run.registered_name else ""
    return run.run_id + registered + "".join(f", {key}={value}" for key, value in run.tags.items())


def _health(run: FleetRun) -> status.Status:
    """The health of a live run; of an ended run, how it ended."""
    return status.health_of(run) if run.state.is_live else status.ended(run)


def _line(name: str, value: float | None, spark: Spark | None) -> Row:
    of, shown = signal(name), numbers.number(value)
    log = of.scale == "log"
    found = [each for each in (*spark.low, *spark.high) if each is not None] if spark else []
    words = f"{of.title}{' (log)' if log else ''} {shown}"
    if found:
        words += f", between {numbers.number(min(found))} and {numbers.number(max(found))} since the start"
    line, band = sparkline.paths(spark, log=log)
    return {"value": shown, "path": line, "band": band, "words": words}


def _change(change: LastChange | None, now: float) -> Row | None:
    if change is None:
        return None
    ago = f"{numbers.duration(now - change.time)} ago"
    settled = change.state is RevisionState.APPLIED
    return {
        "what": escaping.visible(changes.change_words(change), 80),
        "who": escaping.visible(change.actor, 40) + f", {ago}" + ("" if settled else f" · {change.state.value}"),
        "why": escaping.visible(f"r{change.revision}: {change.reason or 'no reason given'}", 300),
    }
