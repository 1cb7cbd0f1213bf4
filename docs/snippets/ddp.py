"""Data parallel training: `torchrun --nproc-per-node 2 ddp.py`."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import steadynorm

dist.init_process_group("gloo")  # "nccl" on GPUs
torch.manual_seed(dist.get_rank())
model = DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
agent = steadynorm.attach(model, optimizer, run="ddp")  # on every rank, after init_process_group
# --8<-- [start:reduce]
agent.describe("loss/mean", reduce="mean")  # on every rank
for _ in range(20):
    loss = model(torch.randn(32, 8)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    agent.log({"loss/mean": loss}, loss=loss)  # the loss is rank 0's
# --8<-- [end:reduce]
agent.close()  # on every rank, after the same step
dist.destroy_process_group()
