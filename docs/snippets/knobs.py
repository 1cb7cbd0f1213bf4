"""Numbers of the loop's own, and options of its optimizer, that operators turn while it trains."""

import torch

import steadynorm

torch.manual_seed(0)
model = torch.nn.Linear(8, 4)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
inputs = torch.randn(200, 32, 8)

# --8<-- [start:loop]
with steadynorm.attach(model, optimizer, run="knobs", server="http://127.0.0.1:8470") as agent:
    coef = agent.knob("entropy_coef", 0.01, low=0, high=0.1, sentence="More keeps the policy more random.")
    agent.optimizer_knobs(optimizer, "weight_decay", "betas")
    for batch in inputs:
        policy = torch.distributions.Categorical(logits=model(batch))
        entropy = policy.entropy().mean()
        loss = model(batch).square().mean() - coef.value * entropy  # read where it is used
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.log(loss=loss, entropy=entropy)
# --8<-- [end:loop]
