"""Muon for the matrices of the blocks, AdamW for all other parameters."""

import torch

import steadynorm

torch.manual_seed(0)
model = torch.nn.ModuleDict(
    {"embedding": torch.nn.Embedding(16, 8), "block": torch.nn.Linear(8, 8), "head": torch.nn.Linear(8, 16)}
)
# --8<-- [start:loop]
matrices = [model["block"].weight]
others = [parameter for parameter in model.parameters() if all(parameter is not each for each in matrices)]
optimizers = [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=1e-3)]  # type: ignore[list-item]
agent = steadynorm.attach(model, optimizers, run="muon")  # a step is one round of both
for _ in range(20):
    tokens = torch.randint(16, (32,))
    hidden = torch.tanh(model["block"](model["embedding"](tokens)))
    loss = torch.nn.functional.cross_entropy(model["head"](hidden), tokens)
    loss.backward()
    for optimizer in optimizers:  # no clip: each tensor's gradient has a norm of about 1
        optimizer.step()
        optimizer.zero_grad()
    agent.log(loss=loss)
# --8<-- [end:loop]
assert agent.step == 20
agent.close()
