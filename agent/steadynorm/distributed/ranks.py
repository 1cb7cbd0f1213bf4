"""Every rank applies the same settings at the same step boundary, without waiting for the network.

Only rank 0 talks to the server. Every `every` steps all ranks start a small asynchronous exchange and complete it
`every` steps later, where what it brought takes effect on all of them. The schedule does not depend on a rank's own
state: a rank whose agent failed still takes part and reports it, and all ranks turn the agent off at one boundary.
"""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from steadynorm.arguments import Arguments
from steadynorm.distributed.arrival import tell_who_is_awaited
from steadynorm.distributed.exchange import MAX_WAIT_S, Exchange, RanksApartError, RankStatus, SettingsBroadcast
from steadynorm.distributed.fingerprint import Fingerprints, WeightFingerprints, differing_ranks, have_equal_weights
from steadynorm.distributed.reductions import Offer, ScalarReductions
from steadynorm.faults import ErrorState
from steadynorm.lifecycle import readable
from steadynorm.mailbox import Mailbox
from steadynorm.recovery.control import RecoveryControl
from steadynorm.recovery.orders import News
from steadynorm.self_check import SelfCheck
from steadynorm.stabilizer.sharding import is_sharded
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.step_boundary import StepBoundary
from steadynorm_contract.telemetry import AgentNote, NoteKind

COMPARE_EVERY = 100  # steps
MAX_PAUSED_WAIT_S = 1.0  # of a paused rank 0 for its server, before it joins the other ranks again
PAUSED_S = 600.0  # that a paused rank waits for rank 0, which may be saving the checkpoint that came with the pause

_COMPARED = ("settings", "observe_steps", "allow", "exchange_every", "recovery")
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
    tell_who_is_awaited()
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
    names = ("run", "run_id", "run_is_given", "server", "server_is_found")  # a server is found where rank 0 runs
    values = exchange.gather([getattr(checked, name) for name in names])[0]
    return replace(checked, **dict(zip(names, values, strict=True)))


def ranks_with_other_parameters(exchange: Exchange, parameters: Iterable[tuple[str, Tensor]]) -> list[int]:
    """Ranks whose parameters are not those of rank 0, by names and shapes. Collective."""
    everyone = exchange.gather(hash_of(parameters))
    return [rank for rank, theirs in enumerate(everyone) if theirs != everyone[0]]


def hash_of(parameters: Iterable[tuple[str, Tensor]]) -> int:
    """The same for the same names and shapes."""
    return zlib.crc32("\0".join(f"{name}{tuple(tensor.shape)}" for name, tensor in parameters).encode())


def are_replicas(given: Arguments) -> bool:
    """Whether ranks with the same parameters are known to have the same whole norms."""
    wrapped = isinstance(given.model, torch.nn.parallel.DistributedDataParallel)
    groups = [group for optimizer in given.optimizers for group in optimizer.param_groups]
    return wrapped or any(is_sharded(parameter) for group in groups for parameter in group["params"])


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
        check: SelfCheck,
        reductions: ScalarReductions,
        *,
        replicas: bool,
        recovery: RecoveryControl | None = None,
    ) -> None:
        self.rank, self.size = exchange.rank, exchange.size
        self.steps = 0  # since attach(), the same on all ranks, whatever failed
        self._exchange = exchange
        self._every = every
        self._boundary, self._mailbox, self._errors = boundary, mailbox, errors
        self._ended = False  # nothing is exchanged any more
        self._outdated = False  # the exchange in progress began before a checkpoint was loaded
        self._check, self._recovery, self._reductions = check, recovery, reductions
        self._names = hash_of(pair for each in stabilizers for pair in zip(each.names, each.parameters, strict=True))
        self._devices = {each.device for each in stabilizers}
        self._fingerprints = Fingerprints([each.rows for each in stabilizers])
        self._weights = WeightFingerprints([each.parameters for each in stabilizers])
        self._weights_due = -1  # the step at which the second one is taken
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
        if step == self._weights_due:
            self._attempt(self._weights.take)
        if step % self._every:
            return
        try:
            if self._exchange.in_progress and self._complete():
                self._wait_while_paused()
            if not self._ended:
                self._start()
        except Exception as error:
            self._go_alone(error)
        if not self._ended and self._is_compared(step):
            self._attempt(self._take_fingerprints)

    def checkpoint_loaded(self) -> None:
        """On all ranks: the exchange in progress carries an older update; a newer one comes with the registration."""
        self._outdated = self._exchange.in_progress
        self._attempt(self._reductions.checkpoint_loaded)

    def leave(self) -> None:
        """The agent is closed. Keeps no parameter alive."""
        self._ended = True
        self._weights = WeightFingerprints([])
        try:
            self._exchange.close()
        except Exception:
            _log.debug("leaving the ranks' group failed", exc_info=True)

    def abandon(self) -> None:
        """In a forked child: the group is the parent's."""
        self._ended = True
        self._exchange.abandon()

    def _go_alone(self, error: Exception) -> None:
        """Leave the exchange, for good: the others get an error, or the end of their patience, too."""
        if isinstance(error, RanksApartError):
            what = f"another rank did not come to the exchange of the agents within {MAX_WAIT_S:g} s: it takes other "
            what += "numbers of steps (join(), local SGD, skipped batches), or has ended"
        else:
            what = f"the exchange of the ranks' agents failed ({readable(error) or type(error).__name__})"
        lost = "" if self._recovery is None else " It cannot be rolled back any more."
        self._check.report(
            "ranks_apart",
            f"{what}. This rank keeps its settings and its mode, and takes no changes any more; training continues."
            f"{lost} To change a run live, take the same number of steps on all ranks.",
        )
        _log.debug("the exchange of the ranks ended", exc_info=error)
        self._attempt(partial(self._reductions.end, "the ranks' exchange has ended"))
        self.leave()

    def _is_compared(self, step: int) -> bool:
        """Whether fingerprints are taken: regularly, and early where ranks may turn out to be replicas."""
        early = self._replicas is None and step == self._every
        return early or (step > 0 and (step // self._every) % max(1, COMPARE_EVERY // self._every) == 0)

    def _take_fingerprints(self) -> None:
        self._fingerprints.take()
        if self._replicas is None:
            self._weights.take()
            self._weights_due = self.steps

    def _device_is_busy(self) -> Callable[[], bool]:
        """Whether anything that was queued until now is not done: see `Exchange`."""
        events = []
        for device in self._devices:
            if device.type == "cuda":
                events.append(torch.cuda.Event())
                events[-1].record(torch.cuda.current_stream(device))
        return lambda: any(not event.query() for event in events)

    def _start(self) -> None:
        status = self._attempt(self._status) or RankStatus(failed=True, closing=self._boundary.closed)
        broadcast = self._attempt(self._broadcast) if self.rank == 0 else None
        reduced = self._reductions.tensors()
        self._attempt(self._reductions.fill)
        self._exchange.start(broadcast or SettingsBroadcast(), status, reduced)

    def _status(self) -> RankStatus:
        norms, statistics = self._fingerprints.read()
        effective = zlib.crc32(msgspec.msgpack.encode(self._boundary.applied))
        weights = self._weights.read() if norms == norms else (math.nan, math.nan)
        failed, closed, recovery = bool(self._errors.count), self._boundary.closed, self._recovery
        broken, held = (0, 0) if recovery is None else (recovery.broken_step, recovery.readiness)
        known = (failed, closed, broken, self._names, effective, norms, statistics, *weights, held)
        return RankStatus(*known, *self._reductions.offer())

    def _broadcast(self) -> SettingsBroadcast:
        update = self._mailbox.take()
        news = None if self._recovery is None else self._recovery.news()
        return SettingsBroadcast.of(update, wait=self._boundary.would_pause(update), recovery=news)

    def _attempt(self, part: Callable[[], _T]) -> _T | None:
        """The result of `part`. An error on this rank must not keep it from the next exchange: the others wait."""
        try:
            return part()
        except Exception:
            self._errors.record()
            return None

    def _complete(self, *, extra_s: float = 0.0) -> bool:
        """Apply what the exchange brought. Returns whether to wait here."""
        broadcast, statuses = self._exchange.complete(device_is_busy=self._device_is_busy(), extra_s=extra_s)
        outdated, self._outdated = self._outdated, False
        failed = [rank for rank, status in enumerate(statuses) if status.failed]
        if failed:
            self._ended = True
            self._errors.disable_all_ranks(failed)
            self._note(NoteKind.RANK_FAILED, failed, "met an internal error, so the agents of all ranks are off")
            self._attempt(partial(self._reductions.end, "the agents of all ranks are off"))
            return False
        self._attempt(self._reductions.record)
        self._reductions.agree([Offer(status.reduced, status.arrived) for status in statuses])
        self._attempt(self._reductions.settle)
        if self._cannot_restore(statuses):
            return False
        if self._recovery is not None and not outdated:
            broken = {rank: status.broken_step for rank, status in enumerate(statuses) if status.broken_step}
            self._attempt(partial(self._recovery.receive, broadcast.recovery or News(), broken=broken))
        if (update := broadcast.update) is not None and not outdated:
            self._attempt(partial(self._boundary.apply_or_reject, update))
        self._attempt(partial(self._compare, statuses))
        return broadcast.wait and not any(status.closing for status in statuses)

    def _cannot_restore(self, statuses: Sequence[RankStatus]) -> bool:
        """A rollback is proposed: whether a rank cannot go back, so that nothing is restored anywhere."""
        if self._recovery is None or self._recovery.proposed is None:
            return False
        held = [status.snapshots for status in statuses]
        usual = max(held, key=held.count)
        differing = [rank for rank, each in enumerate(held) if each != usual or not each]
        if not differing:
            self._recovery.agree()
            return False
        if not any(held):
            self._recovery.drop_proposal()
            return False
        self._ended = True
        self._errors.disable_all_ranks(differing, "does not hold the snapshot that all ranks were to go back to")
        what = "does not hold the snapshot that all ranks were to go back to, so nothing was restored anywhere and the "
        self._note(NoteKind.RANK_FAILED, differing, what + "agents of all ranks are off")
        self._attempt(partial(self._reductions.end, "the agents of all ranks are off"))
        return True

    def _wait_while_paused(self) -> None:
        """All ranks wait at this boundary for a broadcast that ends the pause."""
        _log.warning("paused by an operator before step %d; waiting", self._boundary.step + 1)
        while True:
            if self.rank == 0 and not self._boundary.closed:
                self._mailbox.wait(MAX_PAUSED_WAIT_S)
            self._start()
            if not self._complete(extra_s=PAUSED_S):
                break
        _log.warning("resumed at step %d", self._boundary.step + 1)

    def _compare(self, statuses: Sequence[RankStatus]) -> None:
        self._report("settings", differing_ranks([status._replace(names=0) for status in statuses], "settings"))
        if all(status.norms != status.norms for status in statuses) or self._replicas is False:  # NaN: not due
            return
        differing = {what: differing_ranks(statuses, what) for what in ("norms", "statistics")}
        if self._replicas is None and differing["norms"]:  # plain tensors, which may be different parts of a model
            if all(status.weights == status.weights_after for status in statuses):
                return  # a warm-up from a rate of zero: nothing has moved, and the next comparison decides
            self._replicas = False
            if have_equal_weights(statuses):
                self._observe_replicas(differing["norms"])
            return
        self._replicas = True
        for what, ranks in differing.items():
            self._report(what, ranks)

    def _observe_replicas(self, ranks: Sequence[int]) -> None:
        """The ranks' weights are equal at every step, and their norms are not."""
        what = (
            "has the same weights as the others and other gradient norms: the ranks are averaged after their gradients "
            "were measured, these inside of optimizer.step(), or the weights after it. Scaling each rank's own changes "
            "the direction of that average, so nothing is scaled from here on (observe). Average the gradients before "
            "step(), or use GradientStabilizer inside of it, after the reduction"
        )
        self._note(NoteKind.RANK_MISMATCH, ranks, what)
        self._check.report("reduced_in_step", f"A rank {what}.", kind=None)
        self._boundary.fall_back_to_observe("the ranks are averaged after their gradients were measured")

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
