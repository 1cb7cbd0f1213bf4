"""`Agent`, which `attach()` returns: assembles the parts, and is what a training loop calls.

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

from steadynorm import checkpoint
from steadynorm.arguments import Arguments
from steadynorm.detach import DetachReport, fold_optimizer_state
from steadynorm.distributed.exchange import Exchange
from steadynorm.distributed.ranks import Ranks
from steadynorm.faults import ErrorState
from steadynorm.hooks import OptimizerHooks
from steadynorm.lifecycle import end_state
from steadynorm.mailbox import Mailbox
from steadynorm.parameters import ParameterTracker, assign, split_by_device
from steadynorm.recording.recorder import Recorder
from steadynorm.stabilizer.stabilizer import GradientStabilizer, stabilizer_settings
from steadynorm.step_boundary import StepBoundary
from steadynorm.transport.factory import build_publisher
from steadynorm.transport.publisher import Publisher
from steadynorm_contract.discovery import find_server
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import MAX_BATCH_ID_LENGTH, AgentCounters, RunEnd, RunFinish


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
        raise TypeError(f"loss must be a number or a tensor of one element: got {type(loss).__name__}.") from None


def validate_batch_id(batch_id: object) -> str:
    """The batch's identifier as text. Raises TypeError or ValueError."""
    if isinstance(batch_id, bool) or not isinstance(batch_id, str | int):
        raise TypeError(f"batch_id must be a string or a whole number: got {type(batch_id).__name__}. Use str().")
    text = str(batch_id)
    if len(text) > MAX_BATCH_ID_LENGTH:
        raise ValueError(
            f"batch_id must have at most {MAX_BATCH_ID_LENGTH} characters: got {len(text)}. "
            'Name where the data came from, such as "shard3:1042", not the data.'
        )
    return text


_C = TypeVar("_C", bound=Callable[[int], object])
_log = logging.getLogger("steadynorm")


class Agent:
    """What `attach()` returns. The optimizers hold it, so it lives as long as they do, even without a variable."""

    def __init__(self, given: Arguments, exchange: Exchange | None = None) -> None:
        by_device = [split_by_device(pairs) for pairs in assign(given.model, given.optimizers)]
        together, talks_to_server = exchange is not None, exchange is None or exchange.rank == 0
        self._given = given
        self._run, self._run_id = given.run, given.run_id
        self._detached: DetachReport | None = None
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
        self._ranks = None if exchange is None else self._join(exchange)
        self._recorder: Recorder | None = None
        self._publisher: Publisher | None = None
        if talks_to_server:
            size = 1 if exchange is None else exchange.size
            self._recorder, self._publisher = build_publisher(given, self._stabilizers, self._mailbox, size)
        if self._publisher is not None:
            self._errors.on_disabled = self._publisher.add_error
            # The threads do not hold the agent; when the training code drops everything, they end by themselves.
            self._finalizer = weakref.finalize(self, self._publisher.abandon)
            self._finalizer.atexit = False
        elif talks_to_server:
            _log.warning(
                "no server is given, so this run is stabilized but not recorded. "
                "Start one with `steadynorm up` and pass server=... or set STEADYNORM_SERVER."
            )
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
                [next(places) for _ in parts],
                self._recorder,
                self._publisher,
                owner=self,
            )
            for index, (optimizer, parts) in enumerate(zip(given.optimizers, by_device, strict=True))
        ]

    # What a training loop uses.

    def log(self, *, loss: float | Tensor | None = None, batch_id: str | int | None = None) -> None:
        """Record the loss and the batch of a step: of the last completed one, or, if that has them, of the next.

        Args:
            loss: A number, or a tensor of one element, any shape and dtype, which may stay on its device: it is copied
                there, and nothing waits.
            batch_id: Where the step's data came from, such as `"shard3:1042"`; at most `MAX_BATCH_ID_LENGTH`
                characters. Sent only if the step spikes or is not finite.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: The loss has several elements, or the identifier is too long.
        """
        name = None if batch_id is None else validate_batch_id(batch_id)
        value = None if loss is None else loss_value(loss)
        recorder = self._recorder
        if recorder is None or self._errors.count:
            return
        try:
            if name is not None:
                recorder.put_batch_id(name)
            if value is not None:
                recorder.put_loss(value)
        except Exception:
            self._errors.record()

    def before_clip(self, optimizer: Optimizer | None = None) -> None:
        """Measure and stabilize now rather than in `optimizer.step()`: call it before clipping, which hides spikes.

        Args:
            optimizer: The one that steps next. None: all of them. Do not call this with a GradScaler, which may skip
                the step.
        """
        for owner, hooks in zip(self._given.optimizers, self._hooks, strict=True):
            if not self.closed and (optimizer is None or owner is optimizer):
                hooks.before_clip(owner)

    @property
    def should_stop(self) -> bool:
        """Whether an operator requested a stop. The loop decides what to do; closing then reports `stopped`."""
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

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Send all steps so far, the newest included: call it between steps, after `log(loss=...)`.

        Args:
            timeout_s: Longest wait, in seconds.

        Returns:
            Whether the server has stored all records.
        """
        return self._publisher is None or self._publisher.flush(timeout_s)

    def close(self, *, state: RunEnd | str | None = None, reason: str = "") -> None:
        """Send what is left, report how the run ended, and remove the hooks. Calling it again does nothing.

        Takes two seconds at most when the server does not answer. Gradients are not changed afterwards: a loop that
        continues trains with raw gradients. See `detach()`.

        Args:
            state: `finished`, `failed` or `stopped`. None: stopped if an operator requested it, else finished.
            reason: Shown with the run; cut after 500 characters.

        Raises:
            ValueError: The state is none of the three.
        """
        end = RunEnd(state) if state is not None else RunEnd.STOPPED if self.should_stop else RunEnd.FINISHED
        if self.closed:
            return
        self._boundary.closed = True
        self._mailbox.release()
        for hooks in self._hooks:
            hooks.remove()
        if self._ranks is not None:
            self._ranks.leave()
        if self._publisher is not None:
            self._publisher.close(RunFinish(end, reason=reason[:500]))

    def detach(self) -> DetachReport:
        """Stop stabilizing without a jump: call it between two steps, on every rank; the loop continues alone.

        The gain that pass-through would apply is folded into the optimizers' state where that is exact; the report and
        the log list what is not. Then closes the agent with the reason `detached`. Waits for the device.

        Returns:
            What was folded, by parameter name. A second call returns the same report.

        Raises:
            RuntimeError: The agent was closed before, and gradients have been raw since then.
        """
        if self._detached is not None:
            return self._detached
        if self.closed:
            raise RuntimeError(
                "the agent is already closed, and gradients have been raw since. Call detach() instead of close()."
            )
        self._detached = fold_optimizer_state(self._given.optimizers, self._hooks)
        self.close(state=RunEnd.FINISHED, reason="detached")
        return self._detached

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
            Plain values and tensors: statistics by parameter name (float32 [8]), settings, step and run.
        """
        return checkpoint.save(self._run, self._run_id, self._boundary, self._stabilizers, self._recorded)

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
        if self._ranks is not None:
            self._ranks.checkpoint_loaded()
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

    # State and statistics.

    @property
    def run_id(self) -> str:
        """The run's identity at the server; known before the server has been contacted."""
        return self._run_id

    @property
    def url(self) -> str | None:
        """The run's page in the dashboard if that is the user's own, else the run at the server. None without one."""
        return None if self._given.server is None else run_url(self._given.server, self._run_id)

    @property
    def closed(self) -> bool:
        """Whether `close()` or `detach()` was called."""
        return self._boundary.closed

    @property
    def step(self) -> int:
        """Optimizer steps so far, the current one included."""
        return self._boundary.step

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._boundary.settings

    @property
    def applied_revision(self) -> int:
        """Revision of the settings in force; 0: as attached."""
        return self._boundary.applied[0]

    @property
    def counters(self) -> AgentCounters:
        """Counts of records and errors: produced = acknowledged + dropped + buffered."""
        return self._publisher.counters if self._publisher else AgentCounters(errors=self._errors.count)

    @property
    def callback_errors(self) -> int:
        """Exceptions in callbacks of `on_checkpoint`."""
        return self._boundary.callback_errors

    @property
    def stabilizers(self) -> tuple[GradientStabilizer, ...]:
        """One for each optimizer and device with parameters at `attach()`, then those of parameters added later."""
        return tuple(self._stabilizers)

    def statistics(self) -> dict[str, dict[str, float]]:
        """Statistics of the last step by parameter name, see `GradientStabilizer.statistics`. Waits for the device.

        Returns:
            By parameter name: `raw_norm`, `stabilized_norm`, `norm_mean`, `norm_rms`, `target`, `scale`, `updates` and
            `nonfinite` as floats.
        """
        return {name: row for each in self._stabilizers for name, row in each.statistics().items()}

    def __repr__(self) -> str:
        return f"<Agent run_id={self._run_id!r} step={self.step} mode={self.settings.mode.value}>"

    # For attach().

    def _make_inert(self) -> None:
        """In a forked child: the threads do not exist here, and the connections are the parent's."""
        if self._publisher is not None:
            self._finalizer.detach()
        self._publisher = self._recorder = None
        self._errors.on_disabled = lambda: None
        self._mailbox = self._boundary.isolate()
        if self._ranks is not None:
            self._ranks.abandon()
        for hooks in self._hooks:
            hooks.stop_recording()

    def _join(self, exchange: Exchange) -> Ranks:
        given = self._given
        wrapped = isinstance(given.model, torch.nn.parallel.DistributedDataParallel)
        return Ranks(
            exchange,
            given.exchange_every,
            self._boundary,
            self._mailbox,
            self._errors,
            self._stabilizers,
            replicas=wrapped or any(each.sharded for each in self._stabilizers),
        )
