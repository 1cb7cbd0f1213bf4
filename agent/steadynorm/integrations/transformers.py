"""For Hugging Face's Trainer: `SteadyNormCallback(server="http://127.0.0.1:8470").add_to(trainer)`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import torch

from steadynorm.agent import Agent
from steadynorm.integrations.base import Session, numbers_of, warn_about_clipping
from steadynorm.lifecycle import described, end_state
from steadynorm_contract.settings import Mode
from steadynorm_contract.telemetry import RunEnd

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "steadynorm.integrations.transformers needs Hugging Face's transformers and accelerate, which are not both "
        "installed: pip install 'steadynorm[agent,transformers]'",
        name=error.name,
    ) from error

STATE_FILE = "steadynorm.pt"

_log = logging.getLogger("steadynorm")


class SteadyNormCallback(TrainerCallback):
    """Attaches to the trainer's optimizer while `train()` runs.

    The Trainer clips at `max_grad_norm` (1.0 by default) before any callback sees the gradients, and hides spikes.
    `add_to(trainer)` measures and stabilizes right before the clip, through the trainer's accelerator. Passed as
    `callbacks=[...]` instead, it measures after the clip, and logs a warning. With fp16's loss scaling it measures when
    the optimizer steps, since such a step may be skipped.

    `add_to(trainer)` also makes a `train()` that raises end the run as failed, with the reason, whether the program
    catches the exception or not. A plain callback is not told, and cannot.

    Losses are those that the trainer logs: each step's with `logging_steps=1`. What it logs beside them, such as an
    evaluation's loss or GRPO's rewards, is recorded as `eval/loss` and `train/reward`. An operator's stop ends
    `train()`; a requested checkpoint is saved by the trainer; the agent's state is `steadynorm.pt` in each checkpoint,
    and is loaded from there on resuming.

    Args:
        **options: As for `steadynorm.attach`, without the model and the optimizer.
    """

    def __init__(self, **options: Any) -> None:
        self._session = Session(options)
        self._trainer: Trainer | None = None
        self._train: Callable[..., Any] | None = None
        self._patched: Any = None  # the accelerator whose method was wrapped

    def add_to(self, trainer: Trainer) -> SteadyNormCallback:
        """Add this callback to `trainer`, and measure before it clips. Call it before `train()`."""
        self._trainer = trainer
        trainer.add_callback(self)
        self._train = vars(trainer).get("train")  # another wrapper's
        # A method, so that a deep copy of the trainer trains the copy.
        trainer.train = MethodType(train, trainer)  # type: ignore[method-assign]  # of this instance
        return self

    @property
    def agent(self) -> Agent | None:
        """The agent, while `train()` runs."""
        return self._session.agent

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        run = args.run_name if args.run_name != args.output_dir else None
        saved = Path(args.output_dir or "", f"checkpoint-{state.global_step}", STATE_FILE)
        known = _read(saved) if state.global_step and saved.exists() else None
        scaler = getattr(kwargs["optimizer"], "scaler", None)  # of Accelerate's wrapper
        agent = self._session.begin(
            kwargs["model"], [kwargs["optimizer"]], run=run, state=known, steps=state.global_step, scaler=scaler
        )
        if not args.max_grad_norm:
            return
        if self._trainer is None:
            _log.warning(
                "max_grad_norm=%g clips the gradients before steadynorm sees them, which hides spikes. "
                "Use SteadyNormCallback(...).add_to(trainer) in place of callbacks=[...], or max_grad_norm=0.",
                args.max_grad_norm,
            )
        elif getattr(self._trainer.accelerator, "scaler", None) is None:
            self._measure_before_clip(self._trainer.accelerator)
            if agent.settings.mode is Mode.STABILIZE:
                warn_about_clipping(agent, "max_grad_norm", args.max_grad_norm)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self._session.take_checkpoint_request():
            control.should_save = True
        if self._session.should_stop:
            control.should_training_stop = True
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        scalars = numbers_of(logs or {})
        loss = scalars.pop("loss", None)
        if loss is None:
            scalars.pop("epoch", None)  # the step has it, of the line with its loss
        self._session.log(loss, {scalar_name(name): value for name, value in scalars.items()})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(args.output_dir or "", f"checkpoint-{state.global_step}")
        if self.agent is not None and state.is_world_process_zero and folder.is_dir():
            _write(self.agent.state_dict(), folder / STATE_FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._end()

    def _end(self, state: RunEnd | None = None, reason: str = "") -> None:
        self._leave_accelerator()
        self._session.end(state, reason)

    def _measure_before_clip(self, accelerator: Any) -> None:
        """`clip_grad_norm_` unscales first: what follows that comes before the clip."""
        self._leave_accelerator()
        unscale = accelerator.unscale_gradients

        @functools.wraps(unscale)
        def unscale_and_measure(*args: Any, **kwargs: Any) -> None:
            unscale(*args, **kwargs)
            if self.agent is not None:
                self.agent.before_clip()

        accelerator.unscale_gradients = unscale_and_measure
        self._patched = accelerator

    def _leave_accelerator(self) -> None:
        if self._patched is not None:
            del self._patched.unscale_gradients
            self._patched = None


def _read(saved: Path) -> Any:
    """The agent's state; None, with a warning, where it cannot be read: the trainer's own checkpoint is complete."""
    try:
        return torch.load(saved, map_location="cpu", weights_only=True)
    except Exception as error:
        _log.warning(
            "%s cannot be read (%s): training resumes, and the statistics of norms begin anew. Nothing is to be done.",
            *(saved, described(error)[:300]),
        )
        return None


def _write(state: dict[str, Any], saved: Path) -> None:
    """All of it or nothing: a job may be killed meanwhile. A full disk is told, and is no reason to stop training."""
    unfinished = saved.with_suffix(".unfinished")
    try:
        torch.save(state, unfinished)
        unfinished.replace(saved)
    except Exception as error:
        unfinished.unlink(missing_ok=True)
        _log.warning(
            "%s was not written (%s): resumed from there, the statistics of norms begin anew. Make room on the disk.",
            *(saved, described(error)[:300]),
        )


def scalar_name(logged: str) -> str:
    """As Hugging Face's own reporters name it."""
    return f"eval/{logged.removeprefix('eval_')}" if logged.startswith("eval_") else f"train/{logged}"


def train(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
    """`trainer.train()`, whose exceptions end the run. Named as the method that it stands for, as pickle requires."""
    callbacks = [each for each in trainer.callback_handler.callbacks if isinstance(each, SteadyNormCallback)]
    wrapped = next((each._train for each in callbacks if each._train is not None), None)
    try:
        return type(trainer).train(trainer, *args, **kwargs) if wrapped is None else wrapped(*args, **kwargs)
    except BaseException as error:
        for each in callbacks:
            each._end(*end_state(error))
        raise
