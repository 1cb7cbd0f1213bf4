"""Forecasting: weekly CO2 at Mauna Loa (statsmodels), the next 13 weeks from the last 52, by a recurrent network."""

from __future__ import annotations

from functools import cache

import torch
from statsmodels.datasets import co2
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Forecast"]

PAST, AHEAD, BATCH = 52, 13, 32
HELD_OUT = 400


class Recurrent(nn.Module):
    """A GRU over the past, and a linear layer: [batch, PAST] to [batch, AHEAD], both relative to the newest value."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.memory = nn.GRU(1, width, batch_first=True)
        self.head = nn.Linear(width, AHEAD)

    def forward(self, past: Tensor) -> Tensor:
        states, _ = self.memory(past[..., None])
        return torch.as_tensor(self.head(states[:, -1]))


@cache
def weeks() -> Tensor:
    """Parts per million [2284], with gaps filled in between their neighbours."""
    return torch.tensor(co2.load_pandas().data["co2"].interpolate().to_numpy(), dtype=torch.float32)


class Forecast:
    """Score: mean squared error in ppm² on the last 400 weeks."""

    def __init__(self, device: str) -> None:
        series = weeks()
        windows = series.unfold(0, PAST + AHEAD, 1)
        relative = (windows - windows[:, PAST - 1 : PAST]).to(device)
        self._train, self._held_out = relative[: -HELD_OUT - PAST], relative[-HELD_OUT:]
        self.model: nn.Module = Recurrent().to(device)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Mean squared error of the next batch."""
        return self._loss(self._train[torch.randint(len(self._train), (BATCH,), generator=generator)])

    @torch.no_grad()
    def score(self) -> float:
        """Over all held-out windows."""
        return float(self._loss(self._held_out))

    def _loss(self, windows: Tensor) -> Tensor:
        return functional.mse_loss(self.model(windows[:, :PAST]).float(), windows[:, PAST:])
