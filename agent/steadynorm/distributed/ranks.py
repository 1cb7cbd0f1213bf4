"""Every rank applies the same settings at the same step boundary, without waiting for the network.

Only rank 0 talks to the server. Every `every` steps all ranks start a small asynchronous exchange and complete it
`every` steps later, where what it brought takes effect on all of them. The schedule does not depend on a rank's own
state: a rank whose agent failed still takes part and reports it, and all ranks turn the agent off at one boundary.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import msgspec
import torch.distributed as dist

from steadynorm.arguments import Arguments
from steadynorm.distributed.exchange import Exchange, RankStatus, SettingsBroadcast
from steadynorm.distributed.fingerprint import Fingerprints, differing_ranks
from steadynorm.faults import ErrorState
from steadynorm.mailbox import Mailbox
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.step_boundary import StepBoundary
from steadynorm_contract.telemetry import AgentNote, NoteKind

COMPARE_EVERY = 100  # steps
MAX_PAUSED_WAIT_S = 1.0  # of a paused rank 0 for its server, before it joins the other ranks again

_COMPARED = ("settings", "observe_steps", "allow", "exchange_every")
_MISMATCHES = {
    "settings": "settings",
    "norms": "gradient norms: its gradients are not those of its replicas",
    "statistics": "statistics of gradient norms",
}

_T = TypeVar("_T")
_log = logging.getLogger("steadynorm")


def open_exchange() -> Exchange | None:
    """The exchange of all ranks, a collective call; None where this process is alone."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return None
    return Exchange(dist.new_group(backend="gloo"))


def agree_on_arguments(exchange: Exchange, checked: Arguments) -> Arguments:
    """This rank's arguments under rank 0's run. Collective: all ranks return, or all raise.

    A rank whose arguments are wrong gathers the error's text in place of this call. Raises ValueError where that
    happened on any rank, or where ranks pass different arguments.
    """
    everyone = exchange.gather({name: repr(getattr(checked, name)) for name in _COMPARED})
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
    values = exchange.gather([getattr(checked, name) for name in names])[0]
    return replace(checked, **dict(zip(names, values, strict=True)))


class Ranks:
    """This rank's part of the exchanges.

    replicas: all ranks with the same parameter names are known to have the same whole norms.
    """

    def __init__(
        self,
        exchange: Exchange,
        every: int,
        boundary: StepBoundary,
        mailbox: Mailbox,
        errors: ErrorState,
        stabilizers: Sequence[GradientStabilizer],
        *,
        replicas: bool,
    ) -> None:
        self.rank, self.size = exchange.rank, exchange.size
        self.steps = 0  # since attach(), the same on all ranks, whatever failed
        self._exchange = exchange
        self._every = every
        self._boundary, self._mailbox, self._errors = boundary, mailbox, errors
        self._ended = False  # nothing is exchanged any more
        self._outdated = False  # the exchange in progress began before a checkpoint was loaded
        self._names = zlib.crc32("\0".join(name for each in stabilizers for name in each.names).encode())
        self._fingerprints = Fingerprints([each.rows for each in stabilizers])
        self._replicas: bool | None = replicas or None  # None: decided by the first comparison
        self._reported: dict[str, list[int]] = {name: [] for name in _MISMATCHES}

    def sync_ranks(self) -> None:
        """A step begins: complete the last exchange and start the next, if due. Does not raise.

        Call before anything that may fail, so that the ranks' schedules stay the same.
        """
        if self._ended:
            return
        step = self.steps
        self.steps += 1
        if step % self._every:
            return
        try:
            if self._exchange.in_progress and self._complete():
                self._wait_while_paused()
            if not self._ended:
                self._start()
        except Exception:
            _log.exception("the ranks' exchange failed: this rank keeps its settings; training continues")
            self.leave()  # the others get an error instead of waiting for this rank
        if not self._ended and step and (step // self._every) % max(1, COMPARE_EVERY // self._every) == 0:
            self._attempt(self._fingerprints.take)

    def checkpoint_loaded(self) -> None:
        """On all ranks: the exchange in progress carries an older update; a newer one comes with the registration."""
        self._outdated = self._exchange.in_progress

    def leave(self) -> None:
        """The agent is closed."""
        self._ended = True
        try:
            self._exchange.close()
        except Exception:
            _log.debug("leaving the ranks' group failed", exc_info=True)

    def abandon(self) -> None:
        """In a forked child: the group is the parent's."""
        self._ended = True

    def _start(self) -> None:
        status = self._attempt(self._status) or RankStatus(failed=True, closing=self._boundary.closed)
        broadcast = self._attempt(self._broadcast) if self.rank == 0 else None
        self._exchange.start(broadcast or SettingsBroadcast(), status)

    def _status(self) -> RankStatus:
        norms, statistics = self._fingerprints.read()
        in_force = zlib.crc32(msgspec.msgpack.encode(self._boundary.applied))
        return RankStatus(bool(self._errors.count), self._boundary.closed, self._names, in_force, norms, statistics)

    def _broadcast(self) -> SettingsBroadcast:
        update = self._mailbox.take()
        return SettingsBroadcast.of(update, wait=self._boundary.would_pause(update))

    def _attempt(self, part: Callable[[], _T]) -> _T | None:
        """The result of `part`. An error on this rank must not keep it from the next exchange: the others wait."""
        try:
            return part()
        except Exception:
            self._errors.record()
            return None

    def _complete(self) -> bool:
        """Apply what the exchange brought. Returns whether to wait here."""
        broadcast, statuses = self._exchange.complete()
        outdated, self._outdated = self._outdated, False
        failed = [rank for rank, status in enumerate(statuses) if status.failed]
        if failed:
            self._ended = True
            self._errors.disable_all_ranks(failed)
            self._note(NoteKind.RANK_FAILED, failed, "met an internal error, so the agents of all ranks are off")
            return False
        if (update := broadcast.update) is not None and not outdated:
            self._attempt(partial(self._boundary.apply_or_reject, update))
        self._attempt(partial(self._compare, statuses))
        return broadcast.wait and not any(status.closing for status in statuses)

    def _wait_while_paused(self) -> None:
        """All ranks wait at this boundary for a broadcast that ends the pause."""
        _log.warning("paused by an operator before step %d; waiting", self._boundary.step + 1)
        while True:
            if self.rank == 0 and not self._boundary.closed:
                self._mailbox.wait(MAX_PAUSED_WAIT_S)
            self._start()
            if not self._complete():
                break
        _log.warning("resumed at step %d", self._boundary.step + 1)

    def _compare(self, statuses: Sequence[RankStatus]) -> None:
        self._report("settings", differing_ranks([status._replace(names=0) for status in statuses], "settings"))
        if all(status.norms != status.norms for status in statuses) or self._replicas is False:  # NaN: not due
            return
        differing = {what: differing_ranks(statuses, what) for what in ("norms", "statistics")}
        if self._replicas is None:  # plain tensors, which may be different parts of a model
            self._replicas = not any(differing.values())
            return
        for what, ranks in differing.items():
            self._report(what, ranks)

    def _report(self, what: str, ranks: list[int]) -> None:
        new = [rank for rank in ranks if rank not in self._reported[what]]
        self._reported[what] = ranks
        if new:
            self._note(NoteKind.RANK_MISMATCH, new, f"differs from the other ranks in its {_MISMATCHES[what]}")

    def _note(self, kind: NoteKind, ranks: Sequence[int], what: str) -> None:
        listed = ", ".join(map(str, ranks[:8])) + (" and more" if len(ranks) > 8 else "")
        message = f"rank {listed} {what}."
        if self.rank in (0, *ranks):
            _log.error("before step %d: %s", self._boundary.step + 1, message)
        self._mailbox.note(AgentNote(kind, self._boundary.step + 1, time.time(), ranks[0], message))
