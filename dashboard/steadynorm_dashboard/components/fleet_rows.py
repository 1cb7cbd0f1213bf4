"""Rows of the fleet's table, as its script draws them: words, colours, numbers and lines, nothing left to decide."""

from __future__ import annotations

from collections.abc import Iterable

from steadynorm_contract.fleet import FleetRun, LastChange, Spark
from steadynorm_contract.runs import RevisionState, RunState
from steadynorm_dashboard.components import sparkline
from steadynorm_dashboard.formatting import changes, escaping, numbers, status

__all__ = ["COLUMNS", "Row", "looks", "rows"]

Row = dict[str, object]

COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("run", "run", "name", "-name"),
    ("health", "health", "severity", "severity"),
    ("state", "state", "", ""),
    ("step", "step", "-step", "step"),
    ("speed", "steps/s", "-steps_per_s", "steps_per_s"),
    ("loss", "loss", "-loss", "loss"),
    ("norm", "raw norm (log)", "-raw_norm", "raw_norm"),
    ("target", "target", "", ""),
    ("change", "last change", "", ""),
    ("seen", "last seen", "-last_seen", "last_seen"),
)
"""Key, title, and the orders that a first and a second click on the title ask for; empty: it cannot be sorted by."""

_TAGS = 4
_LIVE = (RunState.RUNNING, RunState.STALLED)


def rows(runs: Iterable[FleetRun], now: float) -> list[Row]:
    """One row a run. Everything is plain text, which the script sets as text and never as HTML."""
    return [_row(run, now) for run in runs]


def looks(runs: Iterable[FleetRun]) -> dict[str, Row]:
    """How each word for health and state looks, once for all rows."""
    met = {look.word: look for run in runs for look in (_health(run), status.state_of(run))}
    return {
        word: {"color": look.color, "icon": look.icon.strip(":").partition("/")[2], "help": look.help}
        for word, look in met.items()
    }


def _row(run: FleetRun, now: float) -> Row:
    live = run.state in _LIVE
    return {
        "id": run.run_id,
        "name": escaping.visible(run.name, 80),
        "about": escaping.visible(run.run_id + "".join(f", {key}={value}" for key, value in run.tags.items()), 400),
        "tags": [escaping.visible(f"{key}={value}", 32) for key, value in list(run.tags.items())[:_TAGS]],
        "more_tags": max(0, len(run.tags) - _TAGS),
        "health": _health(run).word,
        "state": status.state_of(run).word,
        "faded": not live and run.state is not RunState.FAILED,
        "step": numbers.number(run.step),
        "speed": numbers.number(run.steps_per_s, 3) if run.state is RunState.RUNNING else numbers.MISSING,
        "loss": _line(run.loss, run.loss_spark, "loss"),
        "norm": _line(run.raw_norm, run.norm_spark, "raw norm", log=True),
        "target": numbers.number(run.target_min, 3),
        "change": _change(run.last_change, now),
        "seen": f"{numbers.duration(now - run.last_seen)} ago",
    }


def _health(run: FleetRun) -> status.Status:
    """How it does; of an ended run how it ended, for what it was spiking or calm in does not matter any more."""
    return status.health_of(run) if run.state in _LIVE else status.state_of(run)


def _line(value: float | None, spark: Spark | None, name: str, *, log: bool = False) -> Row:
    shown = numbers.number(value)
    found = [each for each in (*spark.low, *spark.high) if each is not None] if spark else []
    words = f"{name}{' (log)' if log else ''} {shown}"
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
