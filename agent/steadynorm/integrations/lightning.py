"""For Lightning: `Trainer(callbacks=[SteadyNormCallback(run="gpt-small", server="http://127.0.0.1:8470")])`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from steadynorm.agent import Agent
from steadynorm.integrations.base import Session, warn_about_clipping
from steadynorm.lifecycle import end_state
from steadynorm_contract.settings import Mode

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "steadynorm.integrations.lightning needs Lightning, which is not installed: "
        "pip install 'steadynorm[agent,lightning]'",
        name=error.name,
    ) from error


class SteadyNormCallback(Callback):
    """Attaches to the trainer's optimizers while `fit` runs.

    Norms are measured, and gradients stabilized, before the trainer clips; with loss scaling (`16-mixed`), when the
    optimizer steps, since such a step may be skipped. An operator's stop ends `fit`; a requested checkpoint is saved
    beside the trainer's own; the agent's state is part of every checkpoint.

    Args:
        **options: As for `steadynorm.attach`, without the model and the optimizer.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._session = Session(options)
        self._state: dict[str, Any] | None = None

    @property
    def agent(self) -> Agent | None:
        """The agent, while `fit` runs."""
        return self._session.agent

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = trainer.global_step // max(1, len(trainer.optimizers))  # it counts those of all optimizers
        agent = self._session.begin(
            pl_module, trainer.optimizers, state=self._state, steps=steps, scaler=_scaler(trainer)
        )
        if trainer.gradient_clip_val and not _scaler(trainer) and agent.settings.mode is Mode.STABILIZE:
            warn_about_clipping(agent, "gradient_clip_val", trainer.gradient_clip_val)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.agent is not None and not _scaler(trainer):
            self.agent.before_clip(optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            # Lightning has divided it by the number of micro-batches.
            self._session.log(loss.detach() * trainer.accumulate_grad_batches)
        if self._session.take_checkpoint_request():
            trainer.save_checkpoint(_checkpoint_path(trainer))
        if self._session.should_stop:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._state = None
        self._session.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._session.end(*end_state(exception))

    def state_dict(self) -> dict[str, Any]:
        return self.agent.state_dict() if self.agent is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict or None


def _scaler(trainer: Trainer) -> object:
    return getattr(trainer.precision_plugin, "scaler", None)


def _checkpoint_path(trainer: Trainer) -> Path:
    """Beside the trainer's own checkpoints."""
    own = trainer.checkpoint_callback
    folder = getattr(own, "dirpath", None) or Path(trainer.default_root_dir) / "checkpoints"
    return Path(folder) / f"steadynorm-step={trainer.global_step}.ckpt"
