"""Clipping: by the agent, and by a clip of one's own that it looks behind."""

import torch

import steadynorm

torch.manual_seed(0)
batches = [torch.randn(32, 8) for _ in range(5)]
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
# --8<-- [start:clip]
agent = steadynorm.attach(model, optimizer, run="gpt-small", mode="clip", clip_norm=1.0)
for inputs in batches:
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()  # no clip_grad_norm_ anywhere
# --8<-- [end:clip]
agent.close()
# --8<-- [start:observe]
agent = steadynorm.attach(model, optimizer, run="gpt-small", mode="observe")
for inputs in batches:
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    agent.before_clip()  # measured here, before the clip hides a spike
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
# --8<-- [end:observe]
agent.close()
