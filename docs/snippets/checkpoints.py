"""Save and resume, with the agent's state in the checkpoint."""

import torch

import steadynorm


def train(steps: int, checkpoint: dict[str, object] | None = None) -> dict[str, object]:
    """Some steps from a checkpoint, or from the beginning; the next checkpoint."""
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    # --8<-- [start:resume]
    agent = steadynorm.attach(model, optimizer, run="gpt-small")
    if checkpoint is not None:  # before the first step
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        agent.load_state_dict(checkpoint["agent"])  # statistics, settings, step, and the run's id
    # --8<-- [end:resume]
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(32, 8)).square().mean().backward()
        optimizer.step()
    # --8<-- [start:save]
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "agent": agent.state_dict()}
    # --8<-- [end:save]
    agent.close()
    return saved


first = train(10)
second = train(5, first)
assert second["agent"]["step"] == 15  # type: ignore[index]
