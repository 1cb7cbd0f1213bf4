"""Sharded training (FSDP2): each rank holds a part of every tensor of a character GPT.

    pip install 'steadynorm[agent]' tqdm
    torchrun --nproc-per-node 2 examples/fsdp2_gpt.py

Norms are those of whole tensors, added up over the ranks. With `steadynorm up` in another terminal the run can be
watched and changed. The two lines with arrows are steadynorm's.
"""

import char_gpt
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from tqdm import trange

import steadynorm

STEPS = 500

dist.init_process_group("gloo")  # "nccl" on GPUs
torch.manual_seed(0)  # the same weights on all ranks, and batches of their own
generator = torch.Generator().manual_seed(dist.get_rank())
text, vocabulary = char_gpt.load_text()
model = char_gpt.CharGPT(vocabulary)
mesh = init_device_mesh("cpu", (dist.get_world_size(),))
for block in model.blocks:
    fully_shard(block, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

with steadynorm.attach(model, optimizer, run="fsdp2-gpt") as agent:  # <── one, on every rank, after fully_shard
    for step in (bar := trange(STEPS, disable=dist.get_rank() != 0)):
        inputs, labels = char_gpt.sample_batch(text, generator)
        loss = char_gpt.loss_of(model, inputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.log(loss=loss)  # <── two
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
dist.destroy_process_group()
