"""An optimizer for each parameter, stepped within backward(): no gradient is kept longer than it is needed."""

import torch

import steadynorm

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
# --8<-- [start:loop]
optimizers = {parameter: torch.optim.AdamW([parameter], lr=1e-3) for parameter in model.parameters()}
agent = steadynorm.attach(model, list(optimizers.values()), run="in-backward")  # all of them, in one list


def step(parameter: torch.Tensor) -> None:
    """As soon as the parameter's gradient is complete."""
    optimizers[parameter].step()  # type: ignore[index]
    optimizers[parameter].zero_grad()  # type: ignore[index]


for parameter in model.parameters():
    parameter.register_post_accumulate_grad_hook(step)
for _ in range(20):
    loss = model(torch.randn(32, 8)).square().mean()
    loss.backward()
    agent.log(loss=loss)
# --8<-- [end:loop]
assert agent.step == 20
agent.close()
