"""For stable-baselines3: `ppo.learn(10_000, callback=SteadyNormCallback(run="hopper"))`."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch

from steadynorm.agent import Agent
from steadynorm.integrations.base import Session, numbers_of

try:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import KVWriter
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "steadynorm.integrations.stable_baselines3 needs stable-baselines3, which is not installed: "
        "pip install 'steadynorm[agent]' stable-baselines3",
        name=error.name,
    ) from error

_log = logging.getLogger("steadynorm")


class SteadyNormCallback(BaseCallback):
    """Attaches to the optimizers of the policy while `learn()` runs.

    PPO, A2C and DQN clip at `max_grad_norm` right before they step, where no callback can look: that hides spikes, and
    a warning says so. Give them `max_grad_norm=float("inf")`; with `mode="clip", clip_norm=0.5` this callback clips as
    they do, with the norms before it on record.

    What the algorithm logs (`train/loss`, `rollout/ep_rew_mean`, …) is recorded as often as it logs. An operator's stop
    ends `learn()`; a requested checkpoint is `steadynorm-step=N.zip`.
    An exception in `learn()` is not told to callbacks: such a run ends with the process. SAC's entropy coefficient, a
    number with an optimizer of its own, is left alone.

    Args:
        save_path: Folder of requested checkpoints.
        **options: As for `steadynorm.attach`, without the model and the optimizer.
    """

    def __init__(self, *, save_path: str | Path = ".", **options: Any) -> None:
        super().__init__()
        self._save_path = Path(save_path)
        self._session = Session(options)
        self._writer = _Writer(self._session)

    @property
    def agent(self) -> Agent | None:
        """The agent, while `learn()` runs."""
        return self._session.agent

    def _on_training_start(self) -> None:
        self._session.begin(self.model.policy, optimizers(self.model))
        if self._writer not in self.logger.output_formats:  # a logger of the user's, after a `learn()` that raised
            self.logger.output_formats.append(self._writer)
        limit = getattr(self.model, "max_grad_norm", None)
        if limit is not None and limit < math.inf:
            _log.warning(
                "max_grad_norm=%g clips the gradients before steadynorm sees them, which hides spikes. Make the "
                'algorithm with max_grad_norm=float("inf"); with mode="clip", clip_norm=%g the agent clips just so.',
                limit,
                limit,
            )

    def _on_step(self) -> bool:
        if self._session.take_checkpoint_request() and self.agent is not None:
            self.model.save(self._save_path / f"steadynorm-step={self.agent.step}.zip")
        return not self._session.should_stop

    def _on_training_end(self) -> None:
        self.logger.output_formats.remove(self._writer)
        self._session.end()


class _Writer(KVWriter):
    """What the algorithm logs, as scalars of the run."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        scalars = numbers_of(key_values)
        self._session.log(scalars.pop("train/loss", None), scalars)

    def close(self) -> None:
        pass


def optimizers(algorithm: BaseAlgorithm) -> list[torch.optim.Optimizer]:
    """Of the policy, or of its actor and critic."""
    holders = [algorithm.policy, *(getattr(algorithm.policy, name, None) for name in ("actor", "critic"))]
    found = [getattr(holder, "optimizer", None) for holder in holders]
    return [each for each in found if isinstance(each, torch.optim.Optimizer)]
