"""Weather forecasting: Seattle's temperatures of the next three days from the last fourteen, by a recurrent network.

    pip install 'steadynorm[agent]' vega_datasets tqdm
    python examples/weather.py

vega_datasets ships four years of daily observations by NOAA: rain, highest and lowest temperature, wind. The last year
is held out. With `steadynorm up` in another terminal the run can be watched and changed. The two lines with arrows are
steadynorm's.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange
from vega_datasets import data

import steadynorm

STEPS, BATCH, PAST, AHEAD, YEAR = 300, 64, 14, 3, 365


class Forecaster(nn.Module):
    """A GRU over the past, [batch, PAST, 6], and a linear layer: the change of the temperature, [batch, AHEAD]."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 16, batch_first=True)
        self.head = nn.Linear(16, AHEAD)

    def forward(self, past: Tensor) -> Tensor:
        states, _ = self.gru(past)
        change: Tensor = self.head(states[:, -1])
        return change


torch.manual_seed(0)
days = torch.tensor(data.seattle_weather()[["precipitation", "temp_max", "temp_min", "wind"]].values).float()
highest = days[:, 1].clone()  # °C, [1461]
season = 2 * math.pi * torch.arange(len(days)) / 365.25
days = torch.cat([(days - days.mean(0)) / days.std(0), torch.stack([season.sin(), season.cos()], 1)], 1)


def windows(ends: Tensor) -> tuple[Tensor, Tensor]:
    """The days before, [batch, PAST, 6], and by how much the days after differ from the last one, °C [batch, AHEAD]."""
    later = highest[ends[:, None] + torch.arange(AHEAD)] - highest[ends - 1][:, None]
    return days[ends[:, None] + torch.arange(-PAST, 0)], later


model = Forecaster()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
with steadynorm.attach(model, optimizer, run="weather") as agent:  # <── one
    for step in (bar := trange(STEPS)):
        past, later = windows(torch.randint(PAST, len(days) - YEAR - AHEAD, (BATCH,)))
        loss = functional.mse_loss(model(past), later)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.log(loss=loss)  # <── two
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.2f}")

with torch.no_grad():
    past, later = windows(torch.arange(len(days) - YEAR, len(days) - AHEAD + 1))
    errors = (model(past) - later).square().mean(0).sqrt().tolist()
for day, (error, same) in enumerate(zip(errors, later.square().mean(0).sqrt().tolist(), strict=True), 1):
    print(f"{day} days ahead: off by {error:.2f} °C; by {same:.2f} if the weather stayed as it is")
