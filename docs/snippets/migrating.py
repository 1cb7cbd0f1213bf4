"""From GSWrapper, and from clipping under SGD."""

import torch

import steadynorm

model = torch.nn.Linear(8, 1)
batches = [torch.randn(32, 8) for _ in range(120)]
# --8<-- [start:wrapper]
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)  # the optimizer is not wrapped
agent = steadynorm.attach(model, optimizer, preset="paper", gamma1=0.6, gamma2=0.999)
# --8<-- [end:wrapper]
model(batches[0]).square().mean().backward()
optimizer.step()
checkpoint = {"optimizer": {"optimizer": optimizer.state_dict(), "scaler_state_by_idx": {}, "scaler_hparams": {}}}
agent.close()
# --8<-- [start:checkpoint]
optimizer.load_state_dict(checkpoint["optimizer"]["optimizer"])  # GSWrapper's own dict is around the optimizer's
agent = steadynorm.attach(model, optimizer, observe_steps=0)
# --8<-- [end:checkpoint]
model(batches[0]).square().mean().backward()
optimizer.step()
agent.close()

# --8<-- [start:sgd]
optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
agent = steadynorm.attach(model, optimizer, observe_steps=100)
for step, inputs in enumerate(batches, start=1):
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    if step <= 101:  # the scale that the rate was tuned for is that of clipped gradients
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
# --8<-- [end:sgd]
agent.close()
