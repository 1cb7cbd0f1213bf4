"""Sharded training with several model parts: `torchrun --nproc-per-node 2 fsdp2.py`."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import steadynorm

dist.init_process_group("gloo")  # "nccl" on GPUs
mesh = init_device_mesh("cpu", (dist.get_world_size(),))
# --8<-- [start:attach]
model_parts = [torch.nn.Linear(8, 16), torch.nn.Linear(16, 1)]
for part in model_parts:
    fully_shard(part, mesh=mesh)
optimizers = [torch.optim.AdamW(part.parameters(), lr=1e-3) for part in model_parts]
agent = steadynorm.attach(torch.nn.ModuleList(model_parts), optimizers, run="llama")  # after fully_shard
# --8<-- [end:attach]
for _ in range(5):
    hidden = torch.tanh(model_parts[0](torch.randn(32, 8)))
    loss = model_parts[1](hidden).square().mean()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    agent.log(loss=loss)
assert set(agent.statistics()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
agent.close()
dist.destroy_process_group()
