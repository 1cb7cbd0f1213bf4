"""Scalars under names of the loop's own."""

import torch

import steadynorm

torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
inputs, held_out = torch.randn(200, 32, 8), torch.randn(256, 8)


def loss_of(batch: torch.Tensor) -> torch.Tensor:
    """Mean squared error against the sum of the inputs, 0-dim."""
    return torch.nn.functional.mse_loss(model(batch), batch.sum(dim=1, keepdim=True))


# --8<-- [start:loop]
with steadynorm.attach(model, optimizer, run="own-scalars", server="http://127.0.0.1:8470") as agent:
    agent.describe("eval/loss", unit="nats", sentence="Loss on the held-out split, every 50 steps.")
    for step, batch in enumerate(inputs, start=1):
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.log(loss=loss, weight_norm=model.weight.norm())  # device tensors are fine: nothing waits
        if step % 50 == 0:
            agent.log({"eval/loss": loss_of(held_out)})
# --8<-- [end:loop]
