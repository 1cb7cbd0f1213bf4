"""A plain loop."""

import torch

import steadynorm

torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = [{"id": f"shard-0:{number}", "inputs": torch.randn(32, 8)} for number in range(20)]


def loss_of(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Mean squared error against the sum of the inputs, 0-dim."""
    return torch.nn.functional.mse_loss(model(inputs), inputs.sum(dim=1, keepdim=True))


# --8<-- [start:loop]
with steadynorm.attach(model, optimizer, run="gpt-small", server="http://127.0.0.1:8470") as agent:

    @agent.on_checkpoint
    def save(step: int) -> None:  # when an operator asks for a checkpoint, between two steps
        torch.save({"model": model.state_dict(), "agent": agent.state_dict()}, f"step-{step}.pt")

    for batch in loader:
        loss = loss_of(model, batch["inputs"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.log(loss=loss, batch_id=batch["id"])  # both are optional
        if agent.should_stop:  # an operator asked the run to stop
            break
# --8<-- [end:loop]
