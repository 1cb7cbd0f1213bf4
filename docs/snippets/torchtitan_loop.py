"""A loop of torchtitan's form, in two variants: `torchrun --nproc-per-node 2 torchtitan_loop.py`."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import steadynorm


class OptimizersContainer(torch.optim.Optimizer):
    """An optimizer for each part of the model, which step together."""

    def __init__(self, model_parts: list[torch.nn.Module]) -> None:
        self.optimizers = [torch.optim.AdamW(part.parameters(), lr=1e-3) for part in model_parts]
        super().__init__([parameter for part in model_parts for parameter in part.parameters()], {})

    def __iter__(self) -> Iterator[torch.optim.Optimizer]:
        return iter(self.optimizers)

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)


def forward_backward() -> torch.Tensor:
    """The loss of one microbatch, whose gradients are added to those of the others."""
    hidden = torch.tanh(model_parts[0](torch.randn(32, 8)))
    loss: torch.Tensor = (model_parts[1](hidden) - torch.randn(32, 1)).square().mean()
    (loss / MICROBATCHES).backward()
    return loss.detach()


STEPS, MICROBATCHES = 10, 2
dist.init_process_group("gloo")  # "nccl" on GPUs
torch.manual_seed(dist.get_rank())
mesh = init_device_mesh("cpu", (dist.get_world_size(),))
model_parts: list[torch.nn.Module] = [torch.nn.Linear(8, 16), torch.nn.Linear(16, 1)]
for part in model_parts:
    fully_shard(part, mesh=mesh)
optimizers = OptimizersContainer(model_parts)
# --8<-- [start:stabilize]
# training.max_norm = inf: torchtitan reports the norm and does not clip
agent = steadynorm.attach(torch.nn.ModuleList(model_parts), optimizers, run="titan")  # when both are built
for step in range(1, STEPS + 1):
    optimizers.zero_grad()
    losses = [forward_backward() for _ in range(MICROBATCHES)]
    torch.nn.utils.clip_grad_norm_([p for part in model_parts for p in part.parameters()], float("inf"))
    optimizers.step()
    agent.log(loss=torch.stack(losses).mean(), step=step)
# --8<-- [end:stabilize]
assert set(agent.statistics()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
agent.close()
optimizers = OptimizersContainer(model_parts)
# --8<-- [start:observe]
# training.max_norm = 1.0, as torchtitan has it
agent = steadynorm.attach(torch.nn.ModuleList(model_parts), optimizers, run="titan", mode="observe")
for step in range(1, STEPS + 1):
    optimizers.zero_grad()
    losses = [forward_backward() for _ in range(MICROBATCHES)]
    agent.before_clip(optimizers)  # records the norm before the clip
    torch.nn.utils.clip_grad_norm_([p for part in model_parts for p in part.parameters()], 1.0)
    optimizers.step()
    agent.log(loss=torch.stack(losses).mean(), step=step)
# --8<-- [end:observe]
agent.close()
dist.destroy_process_group()
