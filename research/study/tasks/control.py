"""Reinforcement learning: gymnasium's CartPole and Pendulum by PPO (Schulman et al., arXiv 1707.06347), in small."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Normal
from torch.nn import functional

__all__ = ["Control"]

ENVIRONMENTS, HORIZON, EPOCHS, MINIBATCHES = 32, 32, 4, 4
CLIP, TRACE, VALUE_WEIGHT, ENTROPY_WEIGHT = 0.2, 0.95, 0.5, 0.01
EPISODES = 30
"""Whose mean return is the score."""


class ActorCritic(nn.Module):
    """Observations [batch, inputs] to what the policy is drawn from, and the value [batch]."""

    def __init__(self, inputs: int, actions: int, continuous: bool) -> None:
        super().__init__()
        self.policy = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, actions))
        self.value = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 1))
        self.log_spread = nn.Parameter(torch.full((actions,), -0.5)) if continuous else None

    def forward(self, observations: Tensor) -> tuple[Distribution, Tensor]:
        drawn = self.policy(observations)
        kind = Categorical(logits=drawn, validate_args=False) if self.log_spread is None else None
        if kind is None:
            assert self.log_spread is not None
            spread = self.log_spread.clamp(-5, 2).exp().expand_as(drawn)
            return Normal(drawn, spread, validate_args=False), self.value(observations)[:, 0]
        return kind, self.value(observations)[:, 0]


class Control:
    """Score: minus the mean return of the last 30 episodes. A policy that is not finite any more gets the worst return.

    Every EPOCHS × MINIBATCHES losses the policy plays HORIZON steps in each of the ENVIRONMENTS.
    """

    def __init__(self, device: str, *, pendulum: bool = False, seed: int = 0) -> None:
        if device != "cpu":
            raise ValueError(f"environments and policy are too small for anything but the CPU: got {device}")
        name = "Pendulum-v1" if pendulum else "CartPole-v1"
        self._worst = -1700.0 if pendulum else 0.0
        self._shift, self._scale = (8.0, 0.125) if pendulum else (0.0, 1.0)  # of rewards: values stay near 1
        self._discount = 0.9 if pendulum else 0.99  # a pendulum tells at once how well it stands
        self._games = gymnasium.make_vec(
            name, ENVIRONMENTS, "sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
        )
        self._seen, _ = self._games.reset(seed=seed)
        shape = self._games.single_observation_space.shape
        assert shape
        self.model: nn.Module = ActorCritic(shape[0], 1 if pendulum else 2, pendulum)
        self._continuous = pendulum
        self._returns: deque[float] = deque(maxlen=EPISODES)
        self._running = np.zeros(ENVIRONMENTS)
        self._parts: list[tuple[Tensor, ...]] = []

    def loss(self, generator: torch.Generator) -> Tensor:
        """PPO's clipped loss on the next minibatch."""
        if not self._parts:
            self._parts = self._minibatches(self._play(generator), generator)
        observed, acted, old, advantages, returns = self._parts.pop()
        policy, values = self.model(observed)
        ratio = (self._log_probability(policy, acted) - old).exp()
        gain = torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()
        value_loss = functional.mse_loss(values, returns)
        loss: Tensor = VALUE_WEIGHT * value_loss - gain - ENTROPY_WEIGHT * policy.entropy().mean()
        return loss

    def score(self) -> float:
        """Of what was played last while training."""
        return -(sum(self._returns) / len(self._returns)) if self._returns else -self._worst

    @torch.no_grad()
    def _play(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        rows: list[tuple[Tensor, ...]] = []
        for _ in range(HORIZON):
            observed = torch.as_tensor(self._seen, dtype=torch.float32)
            policy, values = self.model(observed)
            acted = self._draw(policy, generator)
            moves: Any = acted.numpy()
            self._seen, rewards, ended, cut, more = self._games.step(2 * moves if self._continuous else moves)
            over = ended | cut
            self._running += rewards
            self._returns.extend(self._running[over].tolist())
            self._running[over] = 0.0
            earned = torch.as_tensor(self._scale * (rewards + self._shift), dtype=torch.float32)
            if (cut & ~ended).any():  # such a game would have gone on: what its last state is worth stands for the rest
                lasts = torch.as_tensor(np.stack(more["final_obs"][cut & ~ended]), dtype=torch.float32)
                earned[torch.as_tensor(cut & ~ended)] += self._discount * self.model(lasts)[1]
            rows.append((observed, acted, self._log_probability(policy, acted), values, earned, torch.as_tensor(over)))
        _, following = self.model(torch.as_tensor(self._seen, dtype=torch.float32))
        observed, acted, old, values, rewards_, over_ = (torch.stack(column) for column in zip(*rows, strict=True))
        advantages, later = torch.zeros_like(values), torch.zeros(ENVIRONMENTS)
        for at in reversed(range(HORIZON)):
            goes_on = (~over_[at]).float()
            surprise = rewards_[at] + self._discount * goes_on * following - values[at]
            later = surprise + self._discount * TRACE * goes_on * later
            advantages[at], following = later, values[at]
        returns = advantages + values
        flat = (observed, acted, old, (advantages - advantages.mean()) / (advantages.std() + 1e-8), returns)
        return tuple(column.flatten(0, 1) for column in flat)

    def _minibatches(self, played: tuple[Tensor, ...], generator: torch.Generator) -> list[tuple[Tensor, ...]]:
        parts = []
        for _ in range(EPOCHS):
            order = torch.randperm(len(played[0]), generator=generator)
            parts += [tuple(column[chosen] for column in played) for chosen in order.chunk(MINIBATCHES)]
        return parts

    def _draw(self, policy: Distribution, generator: torch.Generator) -> Tensor:
        if isinstance(policy, Normal):
            drawn = policy.mean + policy.stddev * torch.randn(policy.mean.shape, generator=generator)
            return drawn.nan_to_num(0.0).clamp(-1, 1)
        assert isinstance(policy, Categorical)
        chances = policy.probs.nan_to_num(0.5).clamp_min(1e-8)
        return torch.multinomial(chances, 1, generator=generator)[:, 0]

    def _log_probability(self, policy: Distribution, acted: Tensor) -> Tensor:
        logged = policy.log_prob(acted)
        return logged.sum(-1) if self._continuous else logged
