"""A small model that trains for a minute or two. The batch of step 1000 is broken on purpose."""

import time

import torch

import steadynorm

model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.Tanh(), torch.nn.Linear(64, 16))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
agent = steadynorm.attach(model, optimizer, run="quickstart", server="http://127.0.0.1:8470")
for step in range(1, 5001):
    inputs = torch.randn(64, 16)
    labels = (inputs.sin() + torch.randn(64, 16)) * (300 if step == 1000 else 1)
    loss = torch.nn.functional.mse_loss(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()  # the gradient is measured, stabilized and recorded here
    agent.log(loss=loss)  # a tensor on a GPU is fine: nothing waits for it
    time.sleep(0.01)  # slow enough to watch
agent.close()
