"""Accelerate, in two variants: stabilizing, and clipping."""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

import steadynorm

torch.manual_seed(0)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader: DataLoader[torch.Tensor] = DataLoader(list(torch.randn(64, 8)), batch_size=8)  # type: ignore[arg-type]
# --8<-- [start:stabilize]
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
agent = steadynorm.attach(model, optimizer, run="gpt-small")
for inputs in loader:
    with accelerator.accumulate(model):
        loss = model(inputs).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
# --8<-- [end:stabilize]
assert agent.step == 4
agent.close()
# --8<-- [start:clip]
agent = steadynorm.attach(model, optimizer, run="gpt-small", mode="clip", clip_norm=1.0)
for inputs in loader:
    with accelerator.accumulate(model):
        loss = model(inputs).square().mean()
        accelerator.backward(loss)
        optimizer.step()  # no accelerator.clip_grad_norm_
        optimizer.zero_grad()
# --8<-- [end:clip]
agent.close()
