"""What `agent.log()` takes under names of the training loop's own: validated, then held until the reader collects it.

The training thread never waits. Numbers and tensors in host memory are floats at once. Tensors of a CUDA device become
one row, which is copied into pinned host memory as the step's rows are, see `ring_buffer`: behind it on the same stream
comes the entry's number, and the reader only reads host memory. Those of other devices stay there, and the reader's
thread copies them.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from ctypes import c_float
from dataclasses import dataclass

import torch
from torch import Tensor

from steadynorm.lifecycle import described, readable
from steadynorm_contract.scalars import (
    MAX_SCALARS,
    MAX_SENTENCE_LENGTH,
    MAX_UNIT_LENGTH,
    ScalarDescription,
    name_problem,
)

MAX_ENTRIES = 8192
"""Calls of `log()` that may wait: more than a device can be behind, and than come while a request is answered."""
_MAX_WARNINGS = 20
_CELLS = 65_536
"""float32 values of CUDA tensors that may wait."""

_log = logging.getLogger("steadynorm")

Values = dict[str, float | Tensor]


def scalar_value(name: str, value: object) -> float | Tensor:
    """A number, or a tensor of one element that stays on its accelerator. Raises ValueError, which says what to do."""
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_meta:
            raise ValueError(f"{name} must be one number: got shape {tuple(value.shape)}. Use .mean().")
        if value.is_complex():
            raise ValueError(f"{name} must be a real number: got {value.dtype}. Use .abs().")
        value = whole(name, value)
        return float(value.item()) if value.is_cpu else value.detach()
    if not isinstance(value, str | bytes | bytearray):
        try:
            return float(value)  # type: ignore[arg-type]  # numpy's scalars and the like: float() knows
        except OverflowError:
            return math.inf
        except (TypeError, ValueError):
            pass
    raise ValueError(f"{name} must be a number or a tensor of one element: got {type(value).__name__}. Use float().")


def whole(name: str, value: Tensor) -> Tensor:
    """A plain tensor of the same number. Raises ValueError for a DTensor of which each rank holds a part."""
    if (placements := getattr(value, "placements", None)) is None:
        return value
    if not all(each.is_replicate() for each in placements):
        raise ValueError(
            f"{name} must be the same on all ranks: got parts of a DTensor. Use .full_tensor() on each rank."
        )
    local: Tensor = value.to_local()  # type: ignore[attr-defined]  # of a DTensor
    return local


def describe(unit: object, sentence: object) -> ScalarDescription:
    """The arguments of `agent.describe()`. Raises TypeError or ValueError."""
    for field, value, most in (("unit", unit, MAX_UNIT_LENGTH), ("sentence", sentence, MAX_SENTENCE_LENGTH)):
        if not isinstance(value, str):
            raise TypeError(f"{field} must be a string: got {type(value).__name__}.")
        if len(value) > most or not (value.isprintable() or not value):
            raise ValueError(f"{field} must be at most {most} printable characters: got {len(value)}.")
    return ScalarDescription(str(unit), str(sentence))


class ScalarNames:
    """The names that a process logs: at most MAX_SCALARS. What is refused is told once for each name."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._warned: set[str] = set()

    def valid(self, given: Mapping[str, object]) -> Values:
        """What can be recorded of a call of `log()`; a warning says what of it cannot, and why."""
        found: Values = {}
        for name, value in given.items():
            if value is None or not self._is_text(name):
                continue
            try:
                number = scalar_value(name, value)
            except Exception as error:  # of the value's own code, whose errors are not the agent's
                ours = isinstance(error, ValueError)
                text = readable(error) if ours else f"it cannot be read ({described(error)[:200]})."
                self._warn(name[:100], text if name in text else f"{ascii(name)[:100]}: {text}")
                continue
            if name in self._known or self.admit(name):
                found[name] = number
        return found

    def admit(self, name: str) -> bool:
        """Whether values may be logged under `name`."""
        if not self._is_text(name):
            return False
        if (problem := name_problem(name)) is not None:
            self._warn(name[:100], problem)
            return False
        if name not in self._known and len(self._known) >= MAX_SCALARS:
            self._warn("", f"a run has at most {MAX_SCALARS} logged scalars: got one more, {name!r}. Log fewer names.")
            return False
        self._known.add(name)
        return True

    def _is_text(self, name: object) -> bool:
        if not isinstance(name, str):
            self._warn(readable(name)[:100], f"a scalar's name must be a string: got {type(name).__name__}.")
            return False
        return True

    def _warn(self, name: str, problem: str) -> None:
        """Once for each name, and for so many of them."""
        if name in self._warned or len(self._warned) >= _MAX_WARNINGS:
            return
        self._warned.add(name)
        last = "" if len(self._warned) < _MAX_WARNINGS else " Further warnings of this kind are left out."
        _log.warning("agent.log() leaves out a scalar, and records the others: %s%s", problem, last)


@dataclass(frozen=True, slots=True)
class LoggedRecord:
    """The scalars that were logged in one step. step: the agent's own number, until a recorder says the loop's."""

    round: int
    step: int
    time: float  # Unix seconds
    values: dict[str, float]
    own_step: int = 0  # the agent's, once `step` is the loop's


@dataclass(frozen=True, slots=True)
class _Entry:
    round: int
    step: int
    time: float  # Unix seconds
    names: Sequence[str]  # those in the ring first
    values: Sequence[float | Tensor]  # of the others
    history: int = 0  # how many others had been given up
    place: int = 0  # of the first value in the ring, counted since the beginning
    number: int = 0  # of the entry among those in the ring; 0: it has none there


class ScalarLog:
    """Entries of `log()`, in the order of their calls. One thread puts, one takes. warns: of what is not finite."""

    def __init__(self, *, warns: bool = True) -> None:
        self.lost = 0  # entries, since the beginning
        self._entries: deque[_Entry] = deque()
        self._round = -1  # that `_names` is of: the newest with any
        self._names: set[str] = set()
        self._histories: list[int] = []  # the last round of each that a checkpoint ended
        self._ring: _Ring | None = None
        self._nonfinite: set[str] = set()  # that were told of
        self._warns = warns

    # The training thread.

    def put(self, round_: int, step: int, values: Values) -> None:
        """Record values of the newest step, `round_`. Names that it has already are the coming step's."""
        if not round_:  # no step yet: as a loss, it is the first one's
            self.put_ahead(round_, step, values)
            return
        if self._round < round_:
            self._round, self._names = round_, set()
        ahead = self._round - round_  # 1 where values of the coming step have come before
        if not ahead and not self._names.isdisjoint(values):
            later = {name: value for name, value in values.items() if name in self._names}
            values = {name: value for name, value in values.items() if name not in self._names}
            if values:
                self._append(round_, step, values)
            self._round, self._names, values, ahead = round_ + 1, set(), later, 1
        self._names.update(values)
        self._append(round_ + ahead, step + ahead, values)

    def put_ahead(self, round_: int, step: int, values: Values) -> None:
        """Record values of the step that comes after the newest one, `round_`."""
        if self._round <= round_:
            self._round, self._names = round_ + 1, set()
        self._names.update(values)
        self._append(round_ + 1, step + 1, values)

    def put_late(self, record: LoggedRecord) -> None:
        """Record values of an earlier step."""
        if len(self._entries) >= MAX_ENTRIES:
            self.lost += 1
            return
        names, values = tuple(record.values), tuple(record.values.values())
        history = len(self._histories)
        self._entries.append(_Entry(record.round, record.step, record.time, names, values, history))

    def give_up(self, step: int) -> None:
        """Remove values of steps after this one: a checkpoint was loaded. Only where this thread takes them, too."""
        self._entries = deque(entry for entry in self._entries if entry.step <= step)
        self._round, self._names = -1, set()

    def give_up_coming(self, round_: int) -> None:
        """Leave out what was put for steps after `round_`: those that come are others. One may take meanwhile."""
        self._histories.append(round_)
        self._round, self._names = -1, set()

    def _append(self, round_: int, step: int, values: Values) -> None:
        if len(self._entries) >= MAX_ENTRIES:
            self.lost += 1
            return
        now, history = time.time(), len(self._histories)
        on_device = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        if not on_device:
            self._entries.append(_Entry(round_, step, now, tuple(values), tuple(values.values()), history))
        elif next(iter(on_device.values())).device.type != "cuda":
            kept = [value.clone() if isinstance(value, Tensor) else value for value in values.values()]
            self._entries.append(_Entry(round_, step, now, tuple(values), kept, history))
        elif not torch.cuda.is_current_stream_capturing():  # else each replay would write over later values
            self._ring = self._ring or _Ring()
            place, number = self._ring.put(list(on_device.values()))
            others = {name: value for name, value in values.items() if name not in on_device}
            names = (*on_device, *others)
            self._entries.append(_Entry(round_, step, now, names, tuple(others.values()), history, place, number))

    # The reader.

    def waiting(self, stop: int) -> int:
        """The first round before `stop` of which the device has yet to write a value; `stop` where there is none."""
        for entry in list(self._entries):
            if entry.round >= stop:
                break
            if entry.number and self._ring is not None and not self._ring.has_landed(entry.number):
                return entry.round
        return stop

    def take(self, stop: int) -> list[LoggedRecord]:
        """What was logged in rounds before `stop`: one record for each round, in their order."""
        found: dict[int, LoggedRecord] = {}
        while self._entries and self._entries[0].round < stop:
            entry = self._entries.popleft()
            if entry.history < len(self._histories) and entry.round > self._histories[entry.history]:
                continue
            values = self._read(entry)
            if values is None:
                self.lost += 1
                continue
            known = found.get(entry.round)
            if known is None:
                found[entry.round] = LoggedRecord(entry.round, entry.step, entry.time, values)
            else:
                known.values.update(values)
        return list(found.values())

    def _read(self, entry: _Entry) -> dict[str, float] | None:
        numbers = [float(value) for value in entry.values]
        if entry.number and self._ring is not None:
            copied = self._ring.read(entry.place, entry.number, len(entry.names) - len(numbers))
            if copied is None:
                return None
            numbers = [*copied, *numbers]
        values = dict(zip(entry.names, numbers, strict=True))
        for name, value in values.items():
            if self._warns and not math.isfinite(recorded := c_float(value).value) and name not in self._nonfinite:
                self._nonfinite.add(name)
                how = "as such" if value != value or value == recorded else f"as {recorded}: float32 ends at 3.4e38"
                _log.warning("%s was logged as %s at step %d. It is recorded %s.", ascii(name), value, entry.step, how)
        return values


class _Ring:
    """Values of CUDA tensors in pinned host memory. A copy of them is valid if their number landed and stays."""

    def __init__(self) -> None:
        self._values = torch.zeros(_CELLS, dtype=torch.float32, device="cpu", pin_memory=True)
        self._landed = torch.zeros(MAX_ENTRIES, dtype=torch.int64, device="cpu", pin_memory=True)
        self._numbers: dict[torch.device, Tensor] = {}  # int64 [MAX_ENTRIES], of each device that values came from
        self._reserved = 0  # values that were ever put, and those skipped at the ring's end
        self._number = 0

    def put(self, tensors: Sequence[Tensor]) -> tuple[int, int]:
        """Training thread: enqueue the copy of these values. Returns their place, and the entry's number."""
        count, device = len(tensors), tensors[0].device
        if self._reserved % _CELLS + count > _CELLS:
            self._reserved += _CELLS - self._reserved % _CELLS
        place = self._reserved
        self._reserved += count  # before anything is written, see `read`
        self._number += 1
        moved = [each if each.device == device else each.to(device, non_blocking=True) for each in tensors]
        row = torch.stack([each.reshape(()) for each in moved]) if count > 1 else moved[0].reshape(1)
        at = place % _CELLS
        self._values[at : at + count].copy_(row, non_blocking=True)
        if device not in self._numbers:
            self._numbers[device] = torch.zeros(MAX_ENTRIES, dtype=torch.int64, device=device)
        slot = self._number % MAX_ENTRIES
        number = self._numbers[device][slot]
        number.fill_(self._number)
        self._landed[slot].copy_(number, non_blocking=True)
        return place, self._number

    def has_landed(self, number: int) -> bool:
        """Reader: whether the values of that entry are in host memory, or gone."""
        return int(self._landed[number % MAX_ENTRIES]) >= number

    def read(self, place: int, number: int, count: int) -> list[float] | None:
        """Reader: the values of an entry. None where they have not landed, or were overwritten."""
        if int(self._landed[number % MAX_ENTRIES]) != number:
            return None
        at = place % _CELLS
        values: list[float] = self._values[at : at + count].tolist()
        return values if self._reserved - place <= _CELLS else None
