"""The stabilizer alone: no agent, no server."""

import torch

import steadynorm

model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
# --8<-- [start:make]
stabilizer = steadynorm.GradientStabilizer(model.named_parameters(), gamma2=0.99)
# --8<-- [end:make]
for _ in range(3):
    optimizer.zero_grad()
    loss = model(torch.randn(32, 8)).square().mean()
    # --8<-- [start:step]
    loss.backward()
    stabilizer.apply()  # in place on .grad
    optimizer.step()
    # --8<-- [end:step]
