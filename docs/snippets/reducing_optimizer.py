"""An optimizer that averages gradients in its own step: `torchrun --nproc-per-node 2 reducing_optimizer.py`."""

import torch
import torch.distributed as dist

import steadynorm


def average(parameters):
    """Over all ranks, in place. Averaging equal gradients again changes nothing."""
    for parameter in parameters:
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


class ReducingAdamW(torch.optim.AdamW):
    stabilizer = None

    # --8<-- [start:inside]
    def step(self, closure=None):
        average(parameter for group in self.param_groups for parameter in group["params"])
        if self.stabilizer is not None:  # steadynorm.GradientStabilizer(model.named_parameters())
            self.stabilizer.apply()
        return super().step(closure)

    # --8<-- [end:inside]


dist.init_process_group("gloo")  # "nccl" on GPUs
model = torch.nn.Linear(8, 1)
for parameter in model.parameters():
    dist.broadcast(parameter.data, 0)
optimizer = ReducingAdamW(model.parameters(), lr=1e-3)
torch.manual_seed(dist.get_rank())


def backward():
    optimizer.zero_grad()
    model(torch.randn(32, 8)).square().mean().backward()


agent = steadynorm.attach(model, optimizer, run="reducing")
for _ in range(60):
    backward()
    # --8<-- [start:before]
    average(model.parameters())
    optimizer.step()
    # --8<-- [end:before]
assert agent.health(), agent.health()
agent.close()

optimizer.stabilizer = steadynorm.GradientStabilizer(model.named_parameters())
for _ in range(20):
    backward()
    optimizer.step()
norms = [None] * dist.get_world_size()
dist.all_gather_object(norms, [row["raw_norm"] for row in optimizer.stabilizer.statistics().values()])
assert norms.count(norms[0]) == len(norms), "each rank has the norms of the average"
dist.destroy_process_group()
