"""Every rank applies the same settings at the same step boundary, and nobody waits for a network.

Only rank 0 talks to the server. Every `every` boundaries all ranks start a small asynchronous exchange and complete it
at the boundary `every` later, where what it brought takes effect on all of them. Nothing about it depends on a rank's
own state: a rank whose agent failed takes part still, says so, and all ranks turn the agent off at one boundary.
A boundary is counted here when an optimizer steps that has stepped since the last one, whatever else may fail.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec
import torch.distributed as dist

from steadynorm.arguments import Arguments
from steadynorm.distributed.exchange import Exchange, SettingsBroadcast, Status
from steadynorm.distributed.fingerprint import Fingerprints, differing
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.transport.mailbox import Mailbox
from steadynorm_contract.telemetry import AgentNote, NoteKind

if TYPE_CHECKING:
    from steadynorm.faults import ErrorState
    from steadynorm.step_boundary import Boundary

__all__ = ["Ranks", "attach_together"]

COMPARE_EVERY = 100  # boundaries
LONGEST_WAIT_S = 1.0  # of a paused rank 0 for its server, before it meets the others again

_COMPARED = ("settings", "observe_steps", "allow", "exchange_every")

_T = TypeVar("_T")
_log = logging.getLogger("steadynorm")


def attach_together(check: Callable[[], Arguments]) -> tuple[Arguments, Exchange | None]:
    """The arguments, and the ranks' exchange; None where this process is alone.

    All ranks return, or all raise: an argument that is wrong on one rank, or differs, is an error on each.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return check(), None
    exchange = Exchange(dist.new_group(backend="gloo"))
    given: Arguments | None = None
    error: Exception | None = None
    try:
        given = check()
    except Exception as raised:
        error = raised
    mine = {name: repr(getattr(given, name)) for name in _COMPARED} if given else repr(error)
    everyone = exchange.gather(mine)
    if error is not None:
        raise error
    assert given is not None
    first = everyone[0]
    for rank, theirs in enumerate(everyone):
        if isinstance(theirs, str):
            raise ValueError(f"attach() failed on rank {rank}, and must succeed on all of them. There: {theirs}")
        for name in _COMPARED:
            if theirs[name] != first[name]:
                raise ValueError(
                    f"{name} must be the same on all ranks: got {first[name]} on rank 0 and {theirs[name]} on rank "
                    f"{rank}. Pass the same to attach() everywhere."
                )
    names = ("run", "run_id", "run_is_given")
    values = exchange.gather([getattr(given, name) for name in names])[0]
    return replace(given, **dict(zip(names, values, strict=True))), exchange


class Ranks:
    """This rank's part. replicas: all ranks with the same parameter names are known to have the same whole norms."""

    def __init__(
        self,
        exchange: Exchange,
        every: int,
        boundary: Boundary,
        mailbox: Mailbox,
        faults: ErrorState,
        stabilizers: Sequence[GradientStabilizer],
        optimizers: int,
        *,
        replicas: bool,
    ) -> None:
        self.rank, self.size = exchange.rank, exchange.size
        self.boundaries = 0
        self._exchange = exchange
        self._every = every
        self._boundary, self._mailbox, self._faults = boundary, mailbox, faults
        self._stepped = [True] * optimizers
        self._over = False  # nothing is exchanged any more
        self._outdated = False  # the exchange under way began before a checkpoint was loaded
        self._names = zlib.crc32("\0".join(name for each in stabilizers for name in each.names).encode())
        self._fingerprints = Fingerprints([each.rows for each in stabilizers])
        self._replicas: bool | None = replicas or None  # None: the first comparison tells
        self._odd: dict[str, list[int]] = {"settings": [], "norms": [], "statistics": []}  # told already

    def meet(self, index: int) -> None:
        """Optimizer `index` is about to step. Call before anything that may fail. Does not raise."""
        begins = self._stepped[index]
        if begins:
            self._stepped = [False] * len(self._stepped)
        self._stepped[index] = True
        if not begins or self._over:
            return
        at = self.boundaries
        self.boundaries += 1
        if at % self._every:
            return
        try:
            if self._exchange.under_way and self._complete():
                self._hold()
            if not self._over:
                self._start()
        except Exception:
            _log.exception("the ranks' exchange failed: the settings stay as they are on this rank; training goes on")
            self.leave()  # the others get an error too: they would wait for this rank
        if not self._over and at and (at // self._every) % max(1, COMPARE_EVERY // self._every) == 0:
            self._attempt(self._fingerprints.take)

    def begin_anew(self) -> None:
        """A checkpoint was loaded, on all ranks: whichever optimizer comes first begins a new step.

        News under way were about the settings before; those that still hold come again with the next registration.
        """
        self._outdated = self._exchange.under_way
        self._stepped = [True] * len(self._stepped)

    def leave(self) -> None:
        """The agent is closed."""
        self._over = True
        try:
            self._exchange.close()
        except Exception:
            _log.debug("leaving the ranks' group failed", exc_info=True)

    def abandon(self) -> None:
        """In a forked child: the group is the parent's."""
        self._over = True

    def _start(self) -> None:
        status = self._attempt(self._status) or Status(failed=True, closing=self._boundary.closed)
        self._exchange.start(self._news() if self.rank == 0 else SettingsBroadcast(), status)

    def _status(self) -> Status:
        norms, statistics = self._fingerprints.read()
        in_force = zlib.crc32(msgspec.msgpack.encode(self._boundary.applied))
        return Status(bool(self._faults.count), self._boundary.closed, self._names, in_force, norms, statistics)

    def _news(self) -> SettingsBroadcast:
        def news() -> SettingsBroadcast:
            offer = self._mailbox.take()
            return SettingsBroadcast.of(offer, hold=self._boundary.would_wait(offer))

        return self._attempt(news) or SettingsBroadcast()

    def _attempt(self, part: Callable[[], _T]) -> _T | None:
        """What `part` gives. A fault of this rank alone must not keep it from the next exchange: the others wait."""
        try:
            return part()
        except Exception:
            self._faults.caught()
            return None

    def _complete(self) -> bool:
        """Take what the exchange brought. Returns whether to wait here."""
        news, statuses = self._exchange.complete()
        outdated, self._outdated = self._outdated, False
        failed = [rank for rank, status in enumerate(statuses) if status.failed]
        if failed:
            self._over = True
            self._faults.agree(failed)
            self._tell(NoteKind.RANK_FAILED, failed, "met an internal error, so the agents of all ranks are off")
            return False
        if (offer := news.offer) is not None and not outdated:
            self._attempt(partial(self._boundary.consider, offer))
        self._attempt(partial(self._compare, statuses))
        return news.hold and not any(status.closing for status in statuses)

    def _hold(self) -> None:
        """Wait at this boundary, all ranks, for news that says to go on."""
        _log.warning("paused before step %d by an operator; waiting", self._boundary.step + 1)
        while True:
            if self.rank == 0 and not self._boundary.closed:
                self._mailbox.wait(LONGEST_WAIT_S)
            self._start()
            if not self._complete():
                break
        _log.warning("going on with step %d", self._boundary.step + 1)

    def _compare(self, statuses: Sequence[Status]) -> None:
        self._report("settings", differing([status._replace(names=0) for status in statuses], "settings"))
        if all(status.norms != status.norms for status in statuses) or self._replicas is False:  # NaN: not due
            return
        odd = {what: differing(statuses, what) for what in ("norms", "statistics")}
        if self._replicas is None:  # plain tensors, which may well be different parts of a model
            self._replicas = not any(odd.values())
            return
        for what, ranks in odd.items():
            self._report(what, ranks)

    def _report(self, what: str, ranks: list[int]) -> None:
        new = [rank for rank in ranks if rank not in self._odd[what]]
        self._odd[what] = ranks
        if new:
            self._tell(NoteKind.RANK_MISMATCH, new, f"differs from the other ranks in its {_WORDS[what]}")

    def _tell(self, kind: NoteKind, ranks: Sequence[int], what: str) -> None:
        listed = ", ".join(map(str, ranks[:8])) + (" and more" if len(ranks) > 8 else "")
        message = f"rank {listed} {what}."
        if self.rank in (0, *ranks):
            _log.error("before step %d: %s", self._boundary.step + 1, message)
        self._mailbox.note(AgentNote(kind, self._boundary.step + 1, time.time(), ranks[0], message))


_WORDS = {
    "settings": "settings",
    "norms": "gradient norms: its gradients are not those of its replicas",
    "statistics": "statistics of gradient norms",
}
