"""Leave a run for good, without a jolt."""

import torch

import steadynorm

model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
agent = steadynorm.attach(model, optimizer, run="gpt-small")
for _ in range(10):
    optimizer.zero_grad()
    model(torch.randn(32, 8)).square().mean().backward()
    optimizer.step()
# --8<-- [start:detach]
report = agent.detach()  # between two steps, on every rank; the loop continues alone
print(report)
# --8<-- [end:detach]
