"""`Agent`, which `attach()` returns: assembles the parts, and is what a training loop calls."""

from __future__ import annotations

import logging
import secrets
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from torch import Tensor
from torch.optim import Optimizer

from steadynorm import checkpoint
from steadynorm.agent_knobs import AgentKnobs
from steadynorm.agent_log import AgentLog
from steadynorm.arguments import Arguments
from steadynorm.clip_check import steps_next
from steadynorm.detach import DetachReport, Folding, begin_folding
from steadynorm.distributed.exchange import Exchange
from steadynorm.distributed.ranks import Ranks, are_replicas
from steadynorm.distributed.reductions import ScalarReductions
from steadynorm.faults import ErrorState
from steadynorm.hooks import OptimizerHooks
from steadynorm.lifecycle import end_state, run_all
from steadynorm.mailbox import Mailbox
from steadynorm.parameters import ParameterTracker, split_by_device
from steadynorm.recording.scalars import ScalarNames
from steadynorm.recovery.orders import RollbackEvent
from steadynorm.self_check import SelfCheck
from steadynorm.sink_feed import SinkFeed
from steadynorm.sinks.base import RunInfo
from steadynorm.skipped_steps import SkippedSteps
from steadynorm.stabilizer.options import stabilizer_settings
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.step_boundary import StepBoundary
from steadynorm.transport.factory import build_publisher, build_recovery, build_sinks
from steadynorm_contract.codec import encodable
from steadynorm_contract.telemetry import RunEnd, RunFinish

_C = TypeVar("_C", bound=Callable[[int], object])
_R = TypeVar("_R", bound=Callable[[RollbackEvent], object])
_log = logging.getLogger("steadynorm")


class Agent(AgentLog, AgentKnobs):
    """What `attach()` returns. The optimizers hold it, so it lives as long as they do, even without a variable."""

    def __init__(
        self,
        given: Arguments,
        assigned: Sequence[Sequence[tuple[str, Tensor]]],
        exchange: Exchange | None = None,
        other_ranks: Sequence[int] = (),
    ) -> None:
        by_device = [split_by_device(pairs) for pairs in assigned]
        rank, size = (0, 1) if exchange is None else (exchange.rank, exchange.size)
        together, talks_to_server = exchange is not None, rank == 0
        # Neither model nor optimizers are held here: the optimizers hold the agent.
        self._optimizers = [weakref.ref(optimizer) for optimizer in given.optimizers]
        self._server, self._run_is_given, self._observe_steps = given.server, given.run_is_given, given.observe_steps
        self._run, self._run_id = given.run, given.run_id
        self._folding: Folding | None = None
        self._names = ScalarNames()
        self._finalizers: list[weakref.finalize[[], Agent]] = []
        self._stabilizers = [
            GradientStabilizer(pairs, **stabilizer_settings(given.settings)) for parts in by_device for pairs in parts
        ]
        self._recorded = len(self._stabilizers)
        self._mailbox = Mailbox(given.settings, discard_reports=not talks_to_server)
        self._boundary = StepBoundary(
            given.optimizers,
            self._stabilizers,
            self._mailbox,
            allow=given.allow,
            observe_steps=given.observe_steps,
            all_ranks=together,
        )
        self._errors = ErrorState(self._stabilizers, all_ranks=together)
        self._check = SelfCheck(given, self._stabilizers, self._boundary, self._mailbox, (rank, size), other_ranks)
        told = self._check.report
        sends = build_publisher(given, self._stabilizers, self._mailbox, size, told) if rank == 0 else (None, None)
        state = (self._stabilizers, self._boundary, self._mailbox, self._errors)
        self._recovery, self._watch, self._recorder = build_recovery(given, *state, *sends, (rank, size), told)
        self._publisher = sends[1]
        self._mailbox.sends = self._publisher is not None
        self._sinks: SinkFeed | None = None
        if rank == 0:
            collected = (self._watch, self._recorder)
            to = (self._mailbox, self._publisher, collected, told)
            self._sinks, self._watch, self._recorder = build_sinks(given, self._stabilizers, *to)
            self._config, self._tags = given.config, given.tags
            self._describe_run()
            if self._sinks is not None:
                self._when_freed(self._sinks.abandon)
        self._ranks: Ranks | None = None
        self._reductions: ScalarReductions | None = None
        if exchange is not None:
            most = 2 * given.exchange_every
            self._reductions = ScalarReductions((rank, size), most, exchange.name, self._boundary, self._recorder, told)
            parts = (self._boundary, self._mailbox, self._errors, self._stabilizers, self._check, self._reductions)
            self._ranks = Ranks(
                exchange, given.exchange_every, *parts, replicas=are_replicas(given), recovery=self._recovery
            )
        if self._watch is not None:
            self._when_freed(self._watch.abandon)
        if self._publisher is not None:
            self._errors.on_disabled = self._publisher.add_error
            self._when_freed(self._publisher.abandon)
            if given.server_is_found:  # and not named by the user
                print(f"steadynorm: run {given.run_id} is recorded at {self.url}", file=sys.stderr)
        elif talks_to_server:
            _log.warning(
                "no server is given, so this run is not recorded (mode=%s). "
                "Start one with `steadynorm up` and pass server=... or set STEADYNORM_SERVER.",
                given.settings.mode.value,
            )
        scaler = None if given.recovery is None else given.recovery.scaler
        self._skipped: SkippedSteps | None = None
        if self._recovery is not None and scaler is not None:
            around = (self._boundary, self._errors, self._ranks, self._recovery)
            self._skipped = SkippedSteps(scaler, given.optimizers, *around)
        tracker = ParameterTracker(given.model, given.optimizers, self._stabilizers)
        places = enumerate(self._stabilizers)
        self._hooks = [
            OptimizerHooks(
                optimizer,
                index,
                self._boundary,
                self._errors,
                self._ranks,
                tracker,
                self._check,
                [next(places) for _ in parts],
                self._recorder,
                self._publisher,
                owner=self,
                mode_is_given=given.mode_is_given,
                recovery=self._recovery,
            )
            for index, (optimizer, parts) in enumerate(zip(given.optimizers, by_device, strict=True))
        ]
        for hooks in self._hooks:
            hooks.follows(self._hooks[0])
        for optimizer in given.optimizers:
            weakref.finalize(optimizer, _close_without_optimizers, weakref.ref(self)).atexit = False

    # What a training loop uses.

    def before_clip(self, optimizer: Optimizer | None = None) -> None:
        """Measure and stabilize now rather than in `optimizer.step()`: call it before clipping, which hides spikes.

        Args:
            optimizer: The one that steps next; needed where the agent has several. Do not call this with a GradScaler
                that is enabled: it may skip the step.

        Raises:
            TypeError: The agent has several optimizers, and none is given.
            ValueError: The optimizer is not one of the agent's.
        """
        attached = [reference() for reference in self._optimizers]
        chosen = steps_next(attached, optimizer)
        for owner, hooks in zip(attached, self._hooks, strict=False):  # there are none once the agent is closed
            if owner is not None and any(each is owner for each in chosen):
                hooks.before_clip(owner)

    @property
    def should_stop(self) -> bool:
        """Whether an operator requested a stop. The loop decides what to do; closing then reports `stopped`."""
        self._boundary.reads_stop = self._boundary.stop_was_read = True
        return self._boundary.settings.stop

    def on_checkpoint(self, callback: _C) -> _C:
        """Register a callback for an operator's checkpoint requests. Also a decorator.

        Args:
            callback: Called between two steps with the number of the last completed step. An exception in it is logged
                and counted in `callback_errors`; training continues.

        Returns:
            The callback.
        """
        self._boundary.checkpoint_callbacks.append(callback)
        return callback

    def on_rollback(self, callback: _R) -> _R:
        """Register a callback for rollbacks: it is called on every rank, right after the restore. Also a decorator.

        Args:
            callback: Called with a `RollbackEvent`. An exception in it is logged and counted in `callback_errors`.

        Returns:
            The callback.

        Raises:
            RuntimeError: The agent keeps no snapshots, so it would never be called.
        """
        if self._recovery is None:
            raise RuntimeError("on_rollback() needs snapshots: pass recovery=steadynorm.Recovery() to attach().")
        self._recovery.callbacks.append(callback)
        return callback

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Evaluate and send all steps so far, the newest included: call it between steps, after `log(loss=...)`.

        Args:
            timeout_s: Longest wait, in seconds.

        Returns:
            Whether the server has stored all records since the last call. False also if any were dropped: see
            `counters`. And False at once while the agent waits before it asks a server again that has failed.
        """
        if self._watch is not None:
            self._watch.look(final=True)
        return self._publisher is None or self._publisher.flush(timeout_s)

    def close(self, *, state: RunEnd | str | None = None, reason: str = "") -> None:
        """Send what is left, report how the run ended, and remove the hooks. Calling it again does nothing.

        Takes two seconds at most when the server does not answer, five for sinks that do not, and two on rank 0 for
        ranks that have values to be reduced and are not closed after the same step. Gradients are not
        changed afterwards: a loop that continues trains with raw gradients. See `detach()`.

        Args:
            state: `finished`, `failed` or `stopped`. None: stopped if the loop read that an operator requested it, else
                finished.
            reason: Shown with the run; cut after 500 characters.

        Raises:
            ValueError: The state is none of the three.
        """
        end = RunEnd(state) if state is not None else RunEnd.STOPPED if self._boundary.was_stopped else RunEnd.FINISHED
        if self.closed:
            return
        if end is not RunEnd.FAILED:
            self._check.closed()
        self._boundary.closed = True
        sinks, publisher, why = self._sinks, self._publisher, "the run failed" if end is RunEnd.FAILED else None
        parts: list[Callable[[], object]] = [self._mailbox.release, *(hooks.remove for hooks in self._hooks)]
        if (reductions := self._reductions) is not None:  # why: the others may not come to the end: no wait for them
            last = reductions.finish if why is None else partial(reductions.end, why)
            parts.append(partial(self._errors.attempt, last))
        parts += [] if self._ranks is None else [self._ranks.leave]
        parts += [] if sinks is None else [partial(sinks.abandon, end.value)]
        parts += [] if publisher is None else [partial(publisher.close, RunFinish(end, reason=encodable(reason[:500])))]
        parts += [] if self._watch is None else [self._watch.close]
        parts += [] if sinks is None else [partial(sinks.join, end.value)]
        run_all([*parts, *(each.captures.warn for each in self._stabilizers), self._let_go])

    def detach(self) -> DetachReport:
        """Stop stabilizing without a jump: call it between two steps, on every rank; the loop continues alone.

        The gain that pass-through would apply is folded into the optimizers' state where that is exact; the report and
        the log list what is not. Then closes the agent with the reason `detached`. Waits for the device.

        Returns:
            What was folded, by parameter name. A second call returns the same report.

        Raises:
            RuntimeError: The agent was closed before, and gradients have been raw since then.
        """
        if self._folding is not None and self._folding.report is not None:
            return self._folding.report
        if self.closed:
            raise RuntimeError(
                "the agent is already closed, and gradients have been raw since. Call detach() instead of close()."
            )
        self._folding = self._folding or begin_folding(self._hooks)
        try:
            return self._folding.finish(self._living())
        finally:
            if self._folding.report is not None:
                self.close(state=RunEnd.FINISHED, reason="detached")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        state, reason = end_state(error)
        self.close(state=state, reason=reason)

    # What a checkpoint holds.

    def state_dict(self) -> dict[str, Any]:
        """The agent's part of a training checkpoint. Waits for the device.

        Returns:
            Plain values and tensors: statistics by parameter name (float32 [11]), settings, step and run.
        """
        offset = self._mailbox.step_offset if self._recorder is None else self._recorder.logged_offset
        return checkpoint.save(self._run, self._run_id, self._boundary, self._stabilizers, self._recorded, offset)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint: statistics, settings, step, and, before the first step, the run under its own id.

        A new run begins instead if `attach()` was given another name, or if the model has other parameters. Names that
        only one side has are listed in a warning, and the rest is loaded.

        Args:
            state: What `state_dict()` returned.

        Raises:
            ValueError: The state is not an agent's, and nothing was changed.
        """
        restored = checkpoint.restore(state, self._boundary, self._stabilizers)
        if self._recovery is not None:
            self._recovery.forget()
        if self._ranks is not None:
            self._ranks.checkpoint_loaded()
        if self._observe_steps is None and self._boundary.observe_left is None:
            self._boundary.observe_left = 0
        publisher = self._publisher
        self._mailbox.step_offset = restored.step_offset
        if self._recorder is not None:
            self._recorder.checkpoint_loaded(restored.step_offset, alone=publisher is None)
        if publisher is not None and publisher.started:
            publisher.restart_from(restored.step, secrets.token_hex(8), restored.step_offset)
            return
        if restored.same_table and (restored.run == self._run or not self._run_is_given):
            self._run, self._run_id = restored.run, restored.run_id
            self._describe_run()
        if publisher is not None:
            publisher.registration.name, publisher.registration.run_id = self._run, self._run_id
            publisher.registration.step = restored.step
            publisher.number_steps_from(restored.step_offset)

    # For attach().

    def _make_inert(self) -> None:
        """In a forked child: the threads do not exist here, and the connections are the parent's."""
        for finalizer in self._finalizers:
            finalizer.detach()
        self._publisher = self._recorder = self._sinks = self._reductions = self._watch = None
        self._errors.on_disabled = lambda: None
        self._mailbox.disconnect()
        self._mailbox = self._boundary.isolate()
        self._mailbox.disconnect()
        if self._ranks is not None:
            self._ranks.abandon()
        if self._skipped is not None:
            self._skipped.remove()
        for hooks in self._hooks:
            hooks.stop_recording()

    def _when_freed(self, end: Callable[[], None]) -> None:
        """Where the collector frees it together with the optimizers; the threads do not hold it."""
        self._finalizers.append(weakref.finalize(self, end))
        self._finalizers[-1].atexit = False

    def _describe_run(self) -> None:
        if self._sinks is not None:
            self._sinks.run = RunInfo(self._run_id, self._run, self.url, self._config, tags=self._tags)

    def _living(self) -> list[Optimizer]:
        return [optimizer for reference in self._optimizers if (optimizer := reference()) is not None]

    def _close_without_optimizers(self) -> None:
        """The training code dropped them. Takes no lock and logs nothing: this is called where an object is freed.

        That may be in any thread, amid anything, such as what holds that very lock. The thread that collects does both.
        """
        if self.closed or self._living():
            return
        self._boundary.closed = self._check.without_optimizers = True
        end, reductions = RunEnd.STOPPED if self._boundary.was_stopped else RunEnd.FINISHED, self._reductions
        if self._recorder is not None:
            told: list[Callable[[], object]] = [each.captures.warn for each in self._stabilizers]
            told += [] if reductions is None else [partial(reductions.end, "the optimizers were freed")]
            self._recorder.before_next = partial(run_all, told)
        if self._sinks is not None:
            self._sinks.abandon(end)
        if self._publisher is not None:
            self._publisher.abandon(end)
        self._let_go()

    def _let_go(self) -> None:
        """A closed agent may stay in a variable for long: it keeps nothing of the training alive."""
        self._hooks.clear()
        self._boundary.checkpoint_callbacks.clear()
        if self._watch is not None:
            self._watch.abandon()
        if self._recovery is not None:
            self._recovery.let_go()
        if self._skipped is not None:
            self._skipped.remove()
        for stabilizer in self._stabilizers:
            stabilizer.let_go()


def _close_without_optimizers(reference: weakref.ref[Agent]) -> None:
    """One of its optimizers is about to be freed."""
    if (agent := reference()) is not None:
        agent._close_without_optimizers()
