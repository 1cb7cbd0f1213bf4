"""Loss scaling and gradient accumulation."""

import torch

import steadynorm

torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
batches = [torch.randn(32, 8) for _ in range(8)]
agent = steadynorm.attach(model, optimizer, run="gpt-small")
# --8<-- [start:scaler]
scaler = torch.amp.GradScaler(device="cpu")  # "cuda" on a GPU
for number, inputs in enumerate(batches, start=1):
    loss = model(inputs).square().mean() / 4
    scaler.scale(loss).backward()
    if number % 4 == 0:  # four micro-batches are one step
        scaler.step(optimizer)  # no unscale_() and no before_clip(): the step hook reads the scale
        scaler.update()
        optimizer.zero_grad()
        agent.log(loss=loss * 4)
# --8<-- [end:scaler]
assert agent.step == 2
agent.close()
