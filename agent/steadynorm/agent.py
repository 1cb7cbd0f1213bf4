"""What `attach()` returns: it holds the parts together and is what a training loop speaks to.

agent = steadynorm.attach(model, optimizer, run="gpt-small", server="http://127.0.0.1:8470")
...
optimizer.step()
agent.log(loss=loss)                 # a device tensor is fine: no wait
agent.close()                        # also a context manager, also at exit
"""

from __future__ import annotations

import logging
import secrets
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from steadynorm import checkpoint, lifecycle
from steadynorm.arguments import Arguments
from steadynorm.detach import DetachReport, leave
from steadynorm.distributed.exchange import Exchange
from steadynorm.distributed.ranks import Ranks
from steadynorm.faults import ErrorState
from steadynorm.hooks import OptimizerHooks
from steadynorm.parameters import Newcomers, assign, split_by_device
from steadynorm.recording.recorder import Recorder
from steadynorm.stabilizer.sharding import is_sharded
from steadynorm.stabilizer.stabilizer import GradientStabilizer, stabilizer_settings
from steadynorm.step_boundary import Boundary
from steadynorm.transport.factory import connect
from steadynorm.transport.mailbox import Mailbox
from steadynorm.transport.publisher import Publisher
from steadynorm_contract.discovery import find_server
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import MAX_BATCH_ID_LENGTH, AgentCounters, RunEnd, RunFinish

__all__ = ["Agent", "loss_value", "run_url", "validate_batch_id"]


def run_url(server: str, run_id: str) -> str:
    """Address of the run's page in the dashboard, if the server is the user's own; else of the run at the server."""
    own = find_server()
    if own.server == server and own.dashboard:
        return f"{own.dashboard.rstrip('/')}/?run={run_id}"
    return f"{server}/api/v1/runs/{run_id}"


def loss_value(loss: object) -> float | Tensor:
    """A number, or a 0-dim tensor that stays on its accelerator. Raises TypeError or ValueError."""
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise ValueError(f"loss must be one number: got shape {tuple(loss.shape)}. Use loss.mean().")
        if loss.device.type == "cpu":
            return float(loss.detach())  # in host memory: no wait, where copying it to a device would be one
        return loss.detach().reshape(())
    try:
        return float(loss)  # type: ignore[arg-type]  # numpy's scalars and the like: float() knows
    except (TypeError, ValueError):
        raise TypeError(f"loss must be a number or a tensor: got {type(loss).__name__}.") from None


def validate_batch_id(batch_id: object) -> str:
    """What a step's data is called, as text. Raises TypeError or ValueError."""
    if isinstance(batch_id, bool) or not isinstance(batch_id, str | int):
        raise TypeError(f"batch_id must be a string or a whole number: got {type(batch_id).__name__}. Use str().")
    text = batch_id if isinstance(batch_id, str) else str(batch_id)
    if len(text) > MAX_BATCH_ID_LENGTH:
        raise ValueError(
            f"batch_id must have at most {MAX_BATCH_ID_LENGTH} characters: got {len(text)}. "
            'Name where the data came from, such as "shard3:1042", not the data.'
        )
    return text


_C = TypeVar("_C", bound=Callable[[int], object])
_log = logging.getLogger("steadynorm")


class Agent:
    """What attach() returns. The optimizers hold it, so it lives as long as they do, kept in a variable or not."""

    def __init__(self, given: Arguments, exchange: Exchange | None = None) -> None:
        by_device = [split_by_device(pairs) for pairs in assign(given.model, given.optimizers)]
        self._given = given
        self._run, self._run_id = given.run, given.run_id
        self._closed = False
        self._detached: DetachReport | None = None
        self._stabilizers = [
            GradientStabilizer(pairs, **stabilizer_settings(given.settings)) for parts in by_device for pairs in parts
        ]
        self._mailbox = Mailbox(given.settings)
        self._boundary = Boundary(
            given.optimizers, self._stabilizers, self._mailbox, allow=given.allow, observe_steps=given.observe_steps
        )
        self._faults = ErrorState(self._stabilizers, self._tell_error)
        self._recorder: Recorder | None = None
        self._publisher: Publisher | None = None
        if exchange is not None:
            self._join(exchange)
        if exchange is None or exchange.rank == 0:
            size = 1 if exchange is None else exchange.size
            self._recorder, self._publisher = connect(given, self._stabilizers, self._mailbox, size)
        if self._publisher is not None:
            # The threads do not hold the agent; when the training code drops everything, they end by themselves.
            self._finalizer = weakref.finalize(self, self._publisher.abandon)
            self._finalizer.atexit = False
        elif given.server is None and (exchange is None or exchange.rank == 0):
            _log.warning(
                "no server is given, so this run is stabilized and not recorded. "
                "Start one with `steadynorm up` and pass server=... or set STEADYNORM_SERVER."
            )
        newcomers = Newcomers(given.model, given.optimizers, self._stabilizers)
        self._recorded = len(self._stabilizers)
        self._hooks: list[OptimizerHooks] = []
        recorded = enumerate(self._stabilizers)
        for index, (optimizer, parts) in enumerate(zip(given.optimizers, by_device, strict=True)):
            hooks = OptimizerHooks(optimizer, index, self._boundary, self._faults, self._begin)
            hooks.newcomers, hooks.recorded = newcomers, [next(recorded) for _ in parts]
            hooks.stabilizers = [stabilizer for _, stabilizer in hooks.recorded]
            if self._publisher is not None:
                hooks.recorder, hooks.wake = self._recorder, self._publisher.wake
            self._hooks.append(hooks)
        lifecycle.watch(self, given.optimizers)

    # What a training loop uses.

    def log(self, *, loss: float | Tensor | None = None, batch_id: str | int | None = None) -> None:
        """What belongs to a step: to the last one that ended, or, if that has one already, to the coming one.

        loss: a tensor of one element may stay on its device: it is copied there, and nothing waits.
        batch_id: where the step's data came from, such as "shard3:1042"; at most MAX_BATCH_ID_LENGTH characters. It is
        kept beside the step, and sent only if the step spikes or is not finite.
        """
        name = None if batch_id is None else validate_batch_id(batch_id)
        value = None if loss is None else loss_value(loss)
        recorder = self._recorder
        if recorder is None or self._faults.count:
            return
        try:
            if name is not None:
                recorder.put_batch_id(name)
            if value is not None:
                recorder.put_loss(value)
        except Exception:
            self._faults.caught()

    def before_clip(self, optimizer: Optimizer | None = None) -> None:
        """Measure and stabilize now in place of at `optimizer.step()`: call it before clipping, which hides spikes.

        optimizer: the one that steps next; None: all. Leave it out with a GradScaler, which may skip the step.
        """
        for owner, hooks in zip(self._given.optimizers, self._hooks, strict=True):
            if not self._closed and (optimizer is None or owner is optimizer):
                hooks.before_clip(owner)

    @property
    def should_stop(self) -> bool:
        """Whether an operator asked the run to stop. The loop decides what to do; closing then reports `stopped`."""
        return self._boundary.settings.stop

    def on_checkpoint(self, callback: _C) -> _C:
        """Call `callback(step)` when an operator asks for a checkpoint, between two steps; `step` is the last done.

        An exception in it is logged and counted in `callback_errors`; training goes on. Also a decorator.
        """
        self._boundary.checkpoint_callbacks.append(callback)
        return callback

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Send all steps so far, the newest included: call it between steps, after its loss. True if all are stored."""
        return self._publisher is None or self._publisher.flush(timeout_s)

    def close(self, *, state: RunEnd | str | None = None, reason: str = "") -> None:
        """Send what is left, tell the server how the run ended, and take the hooks off. Calling it again does nothing.

        state: `finished`, `failed` or `stopped`; None: stopped if an operator asked for it, else finished.
        Takes two seconds at most when the server is gone. Gradients are no longer touched afterwards: a loop that goes
        on trains with raw gradients.
        """
        end = RunEnd(state) if state is not None else RunEnd.STOPPED if self.should_stop else RunEnd.FINISHED
        if self._closed:
            return
        self._closed = True
        self._boundary.closed = True
        self._mailbox.release()
        for hooks in self._hooks:
            hooks.remove()
        if self._boundary.ranks is not None:
            self._boundary.ranks.leave()
        lifecycle.forget(self._given.optimizers)
        if self._publisher is not None:
            self._publisher.close(RunFinish(end, reason=reason[:500]))

    def detach(self) -> DetachReport:
        """Leave the run for good, without a jolt: call it between two steps, on every rank; the loop goes on alone.

        The gain that pass-through would apply is folded into the optimizers' state where that is exact; the report, and
        the log, say what was not. Then as `close()`, with the reason `detached`. Waits for the device.
        Raises RuntimeError if the agent was closed before: the gradients have been raw since then.
        """
        if self._detached is not None:
            return self._detached
        if self._closed:
            raise RuntimeError(
                "the agent is closed already, and gradients have been raw since. Use detach() in place of close()."
            )
        self._detached = leave(self._given.optimizers, self._hooks)
        self.close(state=RunEnd.FINISHED, reason="detached")
        return self._detached

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        state, reason = lifecycle.end_of(error)
        self.close(state=state, reason=reason)

    # What a checkpoint holds.

    def state_dict(self) -> dict[str, Any]:
        """Statistics by parameter name, settings, step and run: plain values and tensors. Waits for the device."""
        return checkpoint.save(self._run, self._run_id, self._boundary, self._stabilizers, self._recorded)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue: statistics, settings, step, and, before the first step, the run itself under its own id.

        A new run is begun instead if attach() was given another name, or if the model has other parameters. Names that
        only one side has are listed in a warning, and the rest is loaded. Raises ValueError for a state not ours.
        """
        restored = checkpoint.restore(state, self._boundary, self._stabilizers)
        if self._given.observe_steps is None and self._boundary.observe_left is None:
            self._boundary.observe_left = 0
        publisher = self._publisher
        if publisher is not None and publisher.started:
            publisher.restart_from(restored.step, secrets.token_hex(8))
            return
        if restored.same_table and (restored.run == self._run or not self._given.run_is_given):
            self._run, self._run_id = restored.run, restored.run_id
        if publisher is not None:
            publisher.registration.name, publisher.registration.run_id = self._run, self._run_id
            publisher.registration.step = restored.step

    # What people look at.

    @property
    def run_id(self) -> str:
        """The run's identity at the server; known before the server was asked."""
        return self._run_id

    @property
    def url(self) -> str | None:
        """Where to look at the run: in the dashboard if it is the user's own, else at the server. None without one."""
        return None if self._given.server is None else run_url(self._given.server, self._run_id)

    @property
    def step(self) -> int:
        """Optimizer steps so far, the one under way included."""
        return self._boundary.step

    @property
    def settings(self) -> Settings:
        """In force."""
        return self._boundary.settings

    @property
    def applied_revision(self) -> int:
        """Revision of the settings in force; 0: as attached."""
        return self._boundary.applied[0]

    @property
    def counters(self) -> AgentCounters:
        """The account of all records: produced = acknowledged + dropped + buffered."""
        return self._publisher.counters if self._publisher else AgentCounters(errors=self._faults.count)

    @property
    def callback_errors(self) -> int:
        """Exceptions in callbacks of `on_checkpoint`."""
        return self._boundary.callback_errors

    @property
    def stabilizers(self) -> tuple[GradientStabilizer, ...]:
        """One for each optimizer and device with parameters at attach(), then those of parameters that came later."""
        return tuple(self._stabilizers)

    def statistics(self) -> dict[str, dict[str, float]]:
        """By parameter name, of the last step: see `GradientStabilizer.statistics`. Waits for the device."""
        return {name: row for each in self._stabilizers for name, row in each.statistics().items()}

    def __repr__(self) -> str:
        return f"<Agent run_id={self._run_id!r} step={self.step} mode={self.settings.mode.value}>"

    # Inside.

    def _begin(self) -> None:
        """Before the first step: a run that never steps is never registered, and a checkpoint can still be loaded."""
        if self._publisher is not None and not self._publisher.started:
            self._publisher.start()

    def _join(self, exchange: Exchange) -> None:
        """This process is one of several ranks."""
        given = self._given
        wrapped = isinstance(given.model, torch.nn.parallel.DistributedDataParallel)
        self._faults.together = True
        self._mailbox.mute = exchange.rank != 0
        self._boundary.ranks = Ranks(
            exchange,
            given.exchange_every,
            self._boundary,
            self._mailbox,
            self._faults,
            self._stabilizers,
            len(given.optimizers),
            replicas=wrapped or any(is_sharded(p) for each in self._stabilizers for p in each.parameters),
        )

    def _tell_error(self) -> None:
        if self._publisher is not None:
            self._publisher.add_error()

    def _become_inert(self) -> None:
        """In a forked child: the threads are not here, and the connection is the parent's."""
        if self._publisher is not None:
            self._finalizer.detach()
        self._publisher = self._recorder = None
        self._mailbox = self._boundary.isolate()
        for hooks in self._hooks:
            hooks.recorder = None
            hooks.wake = lambda: None
