"""A contextual bandit with heavy-tailed rewards, learned by REINFORCE without a baseline."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Bandit"]

CONTEXT, ARMS, BATCH = 8, 10, 64
TAIL = 1.3
"""Index of the noise's tail: below 2, so that it has no variance."""
JACKPOT, JACKPOT_EVERY = 1000.0, 500
"""One pull of so many pays or costs this much, whatever the arm."""


class Bandit:
    """Score: regret a pull of the policy, which draws its arms, on contexts that were not trained on."""

    def __init__(self, device: str, seed: int) -> None:
        world = torch.Generator().manual_seed(seed + 20_000)
        self._device = device
        self._pays = torch.randn(CONTEXT, ARMS, generator=world) / CONTEXT**0.5
        self._held_out = torch.randn(2000, CONTEXT, generator=world)
        self.model: nn.Module = nn.Sequential(nn.Linear(CONTEXT, 32), nn.Tanh(), nn.Linear(32, ARMS)).to(device)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Minus the mean of reward times log-probability over one batch of pulls."""
        contexts = torch.randn(BATCH, CONTEXT, generator=generator)
        chances = torch.log_softmax(self.model(contexts.to(self._device)), 1)
        arms = torch.multinomial(chances.detach().exp().cpu(), 1, generator=generator)
        sizes = torch.rand(BATCH, 1, generator=generator) ** (-1 / TAIL) - 1
        lucky = torch.rand(BATCH, 1, generator=generator) < 1 / JACKPOT_EVERY
        signs = torch.randint(2, (BATCH, 1), generator=generator) * 2 - 1
        paid = (contexts @ self._pays).gather(1, arms) + signs * torch.where(lucky, JACKPOT, sizes)
        return -(paid.to(self._device) * chances.gather(1, arms.to(self._device))).mean()

    @torch.no_grad()
    def score(self) -> float:
        """Mean over all held-out contexts."""
        pays = (self._held_out @ self._pays).to(self._device)
        chances = torch.softmax(self.model(self._held_out.to(self._device)), 1)
        return float((pays.max(1).values - (chances * pays).sum(1)).mean())
