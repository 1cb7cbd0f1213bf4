"""Images: a small convolutional network learns to read the handwritten digits that scikit-learn ships.

    pip install 'steadynorm[agent]' scikit-learn tqdm
    python examples/digits.py

With `steadynorm up` in another terminal the run can be watched and changed. The two lines with arrows are steadynorm's.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from tqdm import trange

import steadynorm

STEPS, BATCH, HELD_OUT = 600, 64, 360

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16  # [1797, 1, 8, 8]
labels = torch.tensor(digits.target)
order = torch.randperm(len(images))
train, test = order[HELD_OUT:], order[:HELD_OUT]

model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
    nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(64 * 4 * 4, 10),
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

with steadynorm.attach(model, optimizer, run="digits") as agent:  # <── one
    for step in (bar := trange(STEPS)):
        batch = train[torch.randint(len(train), (BATCH,))]
        loss = functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.log(loss=loss)  # <── two
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")

with torch.no_grad():
    right = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
print(f"{right:.1%} of the digits held out are read right")
