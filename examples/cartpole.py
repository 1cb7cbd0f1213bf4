"""Control: a policy learns to balance a pole on a cart by reinforcement (advantage actor-critic, gymnasium's CartPole).

    pip install 'steadynorm[agent]' gymnasium tqdm
    python examples/cartpole.py

With `steadynorm up` in another terminal the run can be watched and changed. The two lines with arrows are steadynorm's;
the second records the mean return beside the loss.
"""

from collections import deque

import gymnasium
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional
from tqdm import trange

import steadynorm

STEPS, GAMES, HORIZON, DISCOUNT = 1500, 16, 16, 0.99

torch.manual_seed(0)
games = gymnasium.make_vec("CartPole-v1", GAMES, "sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP})
model = nn.ModuleDict({
    "policy": nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2)),
    "value": nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1)),
})  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
seen = torch.tensor(games.reset(seed=0)[0])
running, finished = torch.zeros(GAMES), deque([0.0], maxlen=50)


def play() -> tuple[Tensor, Tensor, Tensor]:
    """HORIZON moves in every game: what was seen, [HORIZON, GAMES, 4], the moves, and their discounted returns."""
    global seen
    rows = []
    for _ in range(HORIZON):
        with torch.no_grad():
            moves = Categorical(logits=model["policy"](seen)).sample()
        following, rewards, ended, cut, _ = games.step(moves.numpy())
        over = torch.tensor(ended | cut)
        rows.append((seen, moves, torch.tensor(rewards).float(), over))
        running.add_(rows[-1][2])
        finished.extend(running[over].tolist())
        running[over] = 0.0
        seen = torch.tensor(following)
    saw, moved, earned, over = (torch.stack(column) for column in zip(*rows, strict=True))
    with torch.no_grad():
        later = model["value"](seen)[:, 0]
    for at in reversed(range(HORIZON)):
        later = earned[at] = earned[at] + DISCOUNT * later * ~over[at]
    return saw, moved, earned


with steadynorm.attach(model, optimizer, run="cartpole") as agent:  # <── one
    for _ in (bar := trange(STEPS)):
        saw, moved, returns = play()
        policy, values = Categorical(logits=model["policy"](saw)), model["value"](saw)[..., 0]
        gain = (policy.log_prob(moved) * (returns - values.detach())).mean() + 0.01 * policy.entropy().mean()
        loss = functional.smooth_l1_loss(values, returns) - gain
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean_return = sum(finished) / len(finished)
        agent.log(loss=loss, mean_return=mean_return)  # <── two
        bar.set_postfix(mean_return=f"{mean_return:.0f}")
print(f"the pole stays up for {mean_return:.0f} moves, of 500 at most")
