"""Recovery with a detector on the mean of the ranks' losses: `torchrun --nproc-per-node 2 recovery_ddp.py`."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import steadynorm

dist.init_process_group("gloo")  # "nccl" on GPUs
torch.manual_seed(dist.get_rank())
model = DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
# --8<-- [start:mean]
detectors = [*steadynorm.DETECTORS, "loss/mean > mean + 3 sigma of 200, 20 times in 30 steps"]
recovery = steadynorm.Recovery(detectors=detectors)
agent = steadynorm.attach(model, optimizer, run="recovery-ddp", recovery=recovery)  # on every rank
agent.describe("loss/mean", reduce="mean")  # on every rank
for _ in range(20):
    loss = model(torch.randn(32, 8)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    agent.log({"loss/mean": loss}, loss=loss)
# --8<-- [end:mean]
agent.close()  # on every rank, after the same step
dist.destroy_process_group()
