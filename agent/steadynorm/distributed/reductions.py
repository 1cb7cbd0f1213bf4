"""Scalars that all ranks log, reduced to one value of a step: `agent.describe("eval/loss", reduce="mean")`.

Each rank holds what it logs under such names. In every exchange it tells which names those are and up to which round
their values are in host memory. From that all ranks know, at the same boundary, what the next exchange reduces: the
same names, and rounds that nobody has to wait for. Rank 0 records the result, under the step of the values.

Where that is not possible rank 0's own values are recorded, and a finding says so.
"""

from __future__ import annotations

import logging
import math
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from steadynorm.distributed.store import ranks_store
from steadynorm.lifecycle import described
from steadynorm.recording.logged import Logged
from steadynorm.recording.recorder import LANDING_S, Recorder
from steadynorm.recording.scalars import LoggedRecord, ScalarLog
from steadynorm.step_boundary import StepBoundary
from steadynorm_contract.words import counted

MAX_REDUCED = 64
"""Names of a run: a row of them in an exchange is 1.5 KB a step."""
LAST_VALUES_S = 2.0  # that rank 0 waits for the other ranks' last values, when it is closed
_POLL_S = 0.005

_log = logging.getLogger("steadynorm")

Rows = dict[int, dict[str, float]]
"""By round, what one rank logged in it."""


class Reduction(StrEnum):
    """What is recorded of a scalar that all ranks log."""

    MEAN = "mean"
    MAX = "max"
    RANK0 = "rank0"


def reduction(value: object) -> Reduction | None:
    """The argument `reduce`. Raises ValueError."""
    if value is None:
        return None
    try:
        return Reduction(value)  # type: ignore[arg-type]  # what it raises for other types is the same
    except ValueError:
        known = ", ".join(each.value for each in Reduction)
        raise ValueError(f"reduce must be one of {known}: got {value!r}.") from None


class Offer(NamedTuple):
    """What a rank's status says of its scalars."""

    names: int = 0  # hash of those that it reduces, and how; 0: none
    arrived: int = 0  # the last round whose values are all in host memory


class ScalarReductions:
    """One rank's part. Lives in the training thread.

    most: rounds that one exchange reduces. name: of the exchange. recorder: None
    on all ranks but the first, and where nothing is recorded. report: tells a finding, once for each name of one.
    """

    def __init__(
        self,
        place: tuple[int, int],
        most: int,
        name: str,
        boundary: StepBoundary,
        recorder: Recorder | None,
        report: Callable[[str, str], None],
    ) -> None:
        self._rank, self._size = place
        self._most, self._prefix = most, f"steadynorm/last_values/{name}"
        self._boundary, self._recorder = boundary, recorder
        self._report = report if self._rank == 0 else lambda name, message: None
        self._how: dict[str, Reduction] = {}
        self._offered: dict[str, Reduction] = {}  # the names as they were told last
        self._active: dict[str, Reduction] = {}  # of the exchange in progress
        self._window = range(0)  # its rounds
        self._taken = 0  # the last round that was reduced, or given up
        self._held = ScalarLog(warns=recorder is None)  # else what is recorded is told of
        self._lost = 0  # entries of it that were counted
        self._in_exchange: list[LoggedRecord] = []  # own values of the window
        self._sums = torch.zeros(0, dtype=torch.float64, device="cpu")
        self._largest = self._sums
        self._loss_round = 0  # the newest round that has a loss
        self._differing: list[int] = []  # ranks, in the last exchange
        self._offset = boundary.step - boundary.round
        self._earlier: list[tuple[int, int]] = []  # before a checkpoint was loaded: the last round, and the offset
        self._given_up: set[int] = set()  # rounds under way whose steps came after the checkpoint's
        self._refused = self._ended = False

    # What the loop says.

    def describe(self, name: str, how: Reduction) -> None:
        """Reduce `name` from now on. Raises ValueError where it is reduced in another way already."""
        known = self._how.get(name, how)
        if known is not how:
            raise ValueError(f"{name!r} is reduced by {known.value} already: got {how.value}. Use another name.")
        if how is Reduction.RANK0 or name in self._how or self._ended:
            return
        if len(self._how) < MAX_REDUCED:
            self._how[name] = how
        elif not self._refused:
            self._refused = True
            self._report(
                "reductions_full",
                f"at most {MAX_REDUCED} scalars of a run are reduced over ranks: got one more, {name!r}. Of it, and of "
                "further ones, rank 0's values are recorded. Reduce fewer.",
            )

    def takes(self, name: str) -> bool:
        """Whether values of that name are reduced."""
        return name in self._how and not self._ended

    def log(self, said: Logged) -> Logged:
        """Take what is reduced out of a call of `log()`. Returns the rest."""
        round_, step = self._boundary.round, self._boundary.step
        ahead = said.loss is not None and self._loss_round >= round_  # the coming step's, and the scalars with it
        if said.loss is not None:
            self._loss_round = round_ + ahead
        if self._ended:
            self._give_own()
            return said
        ours = {name: value for name, value in said.scalars.items() if name in self._how}
        if not ours:
            return said
        (self._held.put_ahead if ahead else self._held.put)(round_, step, ours)
        return said._replace(scalars={name: value for name, value in said.scalars.items() if name not in ours})

    def checkpoint_loaded(self) -> None:
        """All ranks continue from the boundary's new step: what is under way of later steps is of no use any more.

        Recorded now, it would come amid the steps that take their place, where rules and alerts act on it.
        """
        last, now = self._boundary.round, self._boundary.step
        given_up = {round_ for round_ in range(self._next(), last + 1) if self._step(round_) > now}
        self._held.give_up(now)
        self._given_up |= given_up
        self._earlier = [each for each in self._earlier if each[0] >= self._next()] + [(last, self._offset)]
        self._offset = now - last
        if given_up and self._how and self._recorder is not None:
            _log.warning(
                "a checkpoint was loaded: what all ranks logged in the %s before it was not reduced yet, and is "
                "not recorded",
                counted(len(given_up), "step"),
            )

    # The exchange.

    def offer(self) -> Offer:
        """For this rank's status."""
        self._offered = dict(sorted(self._how.items()))
        told = msgspec.msgpack.encode(list(self._offered.items()))
        return Offer(zlib.crc32(told) if self._how else 0, self._held.waiting(self._boundary.round + 1) - 1)

    def tensors(self) -> list[tuple[Tensor, dist.ReduceOp.RedOpType]]:
        """What the exchange that starts now reduces beside its bytes: the same sizes on all ranks, and empty so far."""
        rows, width = len(self._window), len(self._active)
        if not rows:
            return []
        self._sums = torch.zeros((rows, width, 2), dtype=torch.float64, device="cpu")  # a sum, and of how many ranks
        found = [(self._sums, dist.ReduceOp.SUM)]
        if Reduction.MAX in self._active.values():
            self._largest = torch.full((rows, width), -math.inf, dtype=torch.float64, device="cpu")
            found.append((self._largest, dist.ReduceOp.MAX))
        return found

    def fill(self) -> None:
        """Put this rank's values into the tensors."""
        if not self._window:
            return
        self._in_exchange = self._take(self._window.stop)
        rows = {each.round: each.values for each in self._in_exchange}
        sums = [[_cell(rows.get(round_, {}), *each) for each in self._active.items()] for round_ in self._window]
        self._sums.copy_(torch.tensor(sums, dtype=torch.float64, device="cpu"))
        if Reduction.MAX in self._active.values():
            largest = [[_largest(rows.get(round_, {}), name) for name in self._active] for round_ in self._window]
            self._largest.copy_(torch.tensor(largest, dtype=torch.float64, device="cpu"))

    def record(self) -> None:
        """Rank 0: record what the exchange brought."""
        if self._recorder is not None and self._window:
            sums, largest = self._sums.tolist(), self._largest.tolist()
            for at, round_ in enumerate(self._window):
                if round_ in self._given_up:
                    continue
                values: dict[str, float] = {}
                for place, (name, how) in enumerate(self._active.items()):
                    total, ranks = sums[at][place]
                    if ranks:
                        values[name] = largest[at][place] if how is Reduction.MAX else total / ranks
                        self._check_ranks(name, int(ranks), round_)
                self._put(round_, values, self._in_exchange)
        self._in_exchange = []

    def agree(self, offers: Sequence[Offer]) -> None:
        """Decide what the next exchange reduces: the same on all ranks, which have the same `offers`. Cannot fail."""
        arrived, first = min(offer.arrived for offer in offers), offers[0].names
        self._differing = [rank for rank, offer in enumerate(offers) if offer.names != first]
        self._active = self._offered if first and not self._differing else {}
        stop = max(self._taken, min(arrived, self._taken + self._most) if self._active else arrived) + 1
        self._window = range(self._taken + 1, stop) if self._active else range(0)
        self._taken = stop - 1

    def settle(self) -> None:
        """After `agree()`: what is not reduced."""
        if self._active:
            return
        self._give_own(self._taken + 1)
        if self._differing:
            listed = ", ".join(map(str, self._differing[:8])) + (" and more" if len(self._differing) > 8 else "")
            self._report(
                "reductions_differ",
                f"rank {listed} reduces other scalars than rank 0, so none is reduced over ranks, and rank 0's values "
                "are recorded. Call agent.describe(name, reduce=...) on every rank, with the same names.",
            )

    # The end.

    def end(self, why: str) -> None:
        """Nothing is reduced any more; of what has not been, rank 0's values are recorded. Does not wait."""
        if self._ended:
            return
        self._ended = True
        if self._how:
            names = ", ".join(list(self._how)[:3]) + (", ..." if len(self._how) > 3 else "")
            self._report(
                "not_reduced",
                f"{why}: {names} can no longer be reduced over ranks. From step {self._step(self._next())} on the "
                "values of rank 0 alone are recorded.",
            )
        self._give_own()

    def finish(self) -> None:
        """The agent is closed, after the same step on all ranks: the last values, by the ranks' store.

        Rank 0 waits for the others' until LAST_VALUES_S have passed.
        """
        if self._ended or not self._how or self._differing:  # which has been told
            self._ended = True
            self._give_own()
            return
        deadline = time.monotonic() + LANDING_S
        while self._held.waiting(sys.maxsize) < sys.maxsize and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        own = self._in_exchange + self._take(sys.maxsize)
        try:
            everyone = self._everyone({each.round: each.values for each in own})
        except Exception as error:
            self._in_exchange = own
            self.end(f"the other ranks' last values did not come ({described(error)})"[:300])
            return
        self._ended = True
        if self._recorder is None:
            return
        rounds = {round_ for rows in everyone for round_ in rows if round_ >= self._next()} - self._given_up
        for round_ in sorted(rounds):
            values: dict[str, float] = {}
            for name, how in self._how.items():
                found = [rows[round_][name] for rows in everyone if name in rows.get(round_, ())]
                if found:
                    values[name] = max(map(_ordered, found)) if how is Reduction.MAX else sum(found) / len(found)
                    self._check_ranks(name, len(found), round_)
            self._put(round_, values, own)

    def _everyone(self, own: Rows) -> list[Rows]:
        """Rank 0: every rank's rows; the others leave theirs. Raises where they do not come, or store no more."""
        store = ranks_store()
        if self._rank:
            store.set(f"{self._prefix}/{self._rank}", msgspec.msgpack.encode(own))
            return []
        keys = [f"{self._prefix}/{rank}" for rank in range(1, self._size)]
        store.wait(keys, timedelta(seconds=LAST_VALUES_S))
        return [own, *(msgspec.msgpack.decode(store.get(key), type=Rows) for key in keys)]

    def _take(self, stop: int) -> list[LoggedRecord]:
        """Own values of rounds before `stop`."""
        found = self._held.take(stop)
        if self._recorder is not None and self._held.lost > self._lost:
            self._recorder.lose_scalars(self._held.lost - self._lost)
        self._lost = self._held.lost
        return found

    def _give_own(self, stop: int = sys.maxsize) -> None:
        """Record rank 0's own values of rounds before `stop`, as far as they have arrived."""
        own = self._in_exchange + self._take(self._held.waiting(stop))
        self._in_exchange = []
        for each in own:
            self._put(each.round, each.values, own)

    def _put(self, round_: int, values: dict[str, float], own: Sequence[LoggedRecord]) -> None:
        if self._recorder is None or not values or round_ in self._given_up:
            return
        mine = next((each for each in own if each.round == round_), None)
        if mine is None:  # other ranks logged it, and this one did not
            mine = LoggedRecord(round_, self._step(round_), time.time(), values)
        self._recorder.put_late(replace(mine, values=values))

    def _next(self) -> int:
        """The first round that is not recorded yet."""
        return self._window.start if self._window else self._taken + 1

    def _step(self, round_: int) -> int:
        offset = next((offset for last, offset in self._earlier if round_ <= last), self._offset)
        return max(0, round_ + offset)

    def _check_ranks(self, name: str, ranks: int, round_: int) -> None:
        if ranks < self._size:
            self._report(
                f"partly_reduced {name}",
                f"{name!r} was logged by {ranks} of {self._size} ranks in step {self._step(round_)}: what is recorded "
                "is reduced over those, here and where it happens again. Log it on all ranks, in the same steps.",
            )


def _cell(values: Mapping[str, float], name: str, how: Reduction) -> tuple[float, float]:
    if name not in values:
        return 0.0, 0.0
    return (values[name] if how is Reduction.MEAN else 0.0), 1.0


def _largest(values: Mapping[str, float], name: str) -> float:
    return _ordered(values[name]) if name in values else -math.inf


def _ordered(value: float) -> float:
    """A NaN is no number that a maximum may pass over: it is recorded as not finite, as infinity is."""
    return math.inf if math.isnan(value) else value
