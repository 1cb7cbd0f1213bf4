"""Compact rows of all runs in this process: what lists filter, count and sort by. The other fields stay in Redis."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from steadynorm_contract.retention import RetentionLimits
from steadynorm_contract.runs import Health, RunState
from steadynorm_server.runs.events import Signals, health
from steadynorm_server.runs.lifecycle import Lifecycle
from steadynorm_server.runs.record import step_rate
from steadynorm_server.timeseries.rollups import SCHEMES

MOVING = ["state", "incarnation", "registered_step", "last_seen", "poll_expires_at", "stalled", "progress"]
"""Fields of the run's hash that change while it takes steps, but for its sizes, which only the sweeper needs."""
_SIZES = ["bytes:parameters", *(f"bytes:{level.name}" for scheme in SCHEMES for level in scheme.levels)]
FIELDS = [*MOVING, *_SIZES, "name", "started", "info", "lifecycle", "retention", "searched"]
"""All fields that a row is made from."""

STATES, HEALTHS = list(RunState), list(Health)
"""A row holds places in these lists: of the state as it is stored, and of the health but for silence."""

_CODES = {state.value.encode(): place for place, state in enumerate(STATES)}

_FLOATS = (
    "started", "last_seen", "polls_until", "archived_at", "deleted_at", "removes_at", "kept_from", "keep_days",
    "max_mib", "loss", "raw_norm", "steps_per_s",
)  # fmt: skip
_COLUMNS: dict[str, type[np.generic]] = {
    **dict.fromkeys(_FLOATS, np.float64),
    "step": np.int64,
    "bytes": np.int64,  # as RunRecord.redis_bytes
    "state": np.int8,
    "health": np.int8,
    "marked": np.bool_,
}
Column = npt.NDArray[Any]


class _Info(msgspec.Struct):
    parameters: int = 0
    tags: dict[str, str] = {}


class _Progress(msgspec.Struct):
    """The part of `record.Progress` that lists need."""

    incarnation: int = 0
    step: int = 0
    latest: dict[str, float | None] = {}
    rate_points: list[tuple[float, int]] = []
    signals: Signals = msgspec.field(default_factory=Signals)


class _Retention(msgspec.Struct):
    own: RetentionLimits = RetentionLimits()


_info = msgspec.json.Decoder(_Info).decode
_progress = msgspec.json.Decoder(_Progress).decode
_lifecycle = msgspec.json.Decoder(Lifecycle).decode
_retention = msgspec.json.Decoder(_Retention).decode
_NO_PROGRESS, _NO_LIFECYCLE, _NO_RETENTION = _Progress(), Lifecycle(), _Retention()


class Rows:
    """Rows without gaps: a removed one is replaced by the last. Unknown numbers are NaN.

    ids, names, registered, tags, text: by row; the shown name, the agent's, and what a search looks through.
    layout: counts up when rows come, go, or change in what does not move with the steps.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.names: list[str] = []
        self.registered: list[str] = []
        self.tags: list[dict[str, str]] = []
        self.text: list[str] = []
        self.places: dict[str, int] = {}
        self.layout = 0
        self._columns: dict[str, Column] = {name: np.zeros(64, kind) for name, kind in _COLUMNS.items()}

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> Column:
        """One column, by row."""
        return self._columns[name][: len(self.ids)]

    def put(self, run_id: str, values: Sequence[bytes | None]) -> None:
        """Add or replace a run, given its FIELDS. Without a name there is none: it is removed."""
        name, started, described, lifecycle, retention, searched = values[len(MOVING) + len(_SIZES) :]
        if name is None or started is None or values[0] is None:
            self.remove(run_id)
            return
        info = _info(described or b"{}")
        put_away = _lifecycle(lifecycle) if lifecycle else _NO_LIFECYCLE
        own = (_retention(retention) if retention else _NO_RETENTION).own
        registered = name.decode()
        shown = put_away.title or registered
        tags = {_shared(key): value for key, value in info.tags.items()}
        alias = "" if shown == registered else registered
        # As lists show it: the agent's name is apart only where an operator renamed the run.
        text = " ".join([shown, alias, run_id, *(f"{key}={value}" for key, value in tags.items())]).lower()
        text += f" {searched.decode()}" if searched else ""  # in lower case
        at = self.places.get(run_id)
        if at is None:
            at = self._append(run_id)
        elif (self.names[at], self.text[at], self.tags[at]) != (shown, text, tags):
            self.layout += 1
        self.names[at], self.registered[at] = shown, registered if alias else shown
        self.tags[at], self.text[at] = tags, text
        columns = self._columns
        columns["started"][at] = float(started)
        columns["archived_at"][at] = _number(put_away.archived_at)
        columns["deleted_at"][at] = _number(put_away.deleted_at)
        columns["removes_at"][at] = _number(put_away.removes_at)
        columns["kept_from"][at] = put_away.changes[0].time if put_away.changes else 0.0
        columns["keep_days"][at] = _number(own.keep_days)
        columns["max_mib"][at] = _number(own.max_mib)
        sizes = values[len(MOVING) : len(MOVING) + len(_SIZES)]
        columns["bytes"][at] = 8 * info.parameters + sum(int(size) for size in sizes if size)
        self._move(at, values[: len(MOVING)])

    def move(self, run_id: str, values: Sequence[bytes | None]) -> bool:
        """Update a run by its MOVING fields. False: it is gone, or no row yet."""
        at = self.places.get(run_id)
        if at is None or values[0] is None:
            return False
        self._move(at, values)
        return True

    def _move(self, at: int, values: Sequence[bytes | None]) -> None:
        state, incarnation, registered_step, last_seen, polls_until, stalled, stored = values
        progress = _progress(stored) if stored else _NO_PROGRESS
        step = progress.step if progress.incarnation == int(incarnation or 0) else int(registered_step or 0)
        columns = self._columns
        columns["state"][at] = _CODES[state or b""]
        columns["step"][at] = step
        columns["health"][at] = HEALTHS.index(health(progress.signals, step, stalled=False))
        columns["last_seen"][at] = float(last_seen or 0.0)
        columns["polls_until"][at] = float(polls_until or 0.0)
        columns["marked"][at] = bool(stalled)
        columns["loss"][at] = _number(progress.latest.get("loss"))
        columns["raw_norm"][at] = _number(progress.latest.get("raw_norm"))
        columns["steps_per_s"][at] = _number(step_rate(progress.rate_points))

    def remove(self, run_id: str) -> None:
        """Without effect for a run that is no row."""
        at = self.places.pop(run_id, None)
        if at is None:
            return
        self.layout += 1
        last = len(self.ids) - 1
        for texts in (self.ids, self.names, self.registered, self.tags, self.text):
            final: Any = texts.pop()
            if at != last:
                texts[at] = final
        if at != last:
            self.places[self.ids[at]] = at
            for column in self._columns.values():
                column[at] = column[last]

    def _append(self, run_id: str) -> int:
        at = self.places[run_id] = len(self.ids)
        self.layout += 1
        if at == len(self._columns["step"]):
            self._columns = {name: np.resize(column, at + at // 2) for name, column in self._columns.items()}
        self.ids.append(run_id)
        self.names.append("")
        self.registered.append("")
        self.tags.append({})
        self.text.append("")
        return at


_KEYS: dict[str, str] = {}


def _shared(key: str) -> str:
    """One object for equal keys of tags, of which there are few kinds."""
    if len(_KEYS) > 10_000:
        _KEYS.clear()
    return _KEYS.setdefault(key, key)


def _number(value: float | None) -> float:
    return np.nan if value is None else value
