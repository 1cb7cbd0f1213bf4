"""Data parallel training: ranks share the batches of handwritten digits, which scikit-learn ships.

    pip install 'steadynorm[agent]' scikit-learn tqdm
    torchrun --nproc-per-node 2 examples/ddp_digits.py

Every rank calls attach(); rank 0 alone talks to the server. With `steadynorm up` in another terminal the run can be
watched and changed. The two lines with arrows are steadynorm's.
"""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from tqdm import tqdm

import steadynorm

EPOCHS, BATCH = 15, 32

dist.init_process_group("gloo")  # "nccl" on GPUs
torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16  # [1797, 64]
data = TensorDataset(images, torch.tensor(digits.target))
sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(data, drop_last=True)
loader = DataLoader(data, batch_size=BATCH, sampler=sampler, drop_last=True)

model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

with steadynorm.attach(model, optimizer, run="ddp-digits") as agent:  # <── one, on every rank
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for inputs, labels in tqdm(loader, f"epoch {epoch + 1}", disable=dist.get_rank() != 0):
            loss = functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            agent.log(loss=loss)  # <── two
dist.destroy_process_group()
