"""Low precision: a character GPT whose linear layers compute with numbers of four bits.

    pip install 'steadynorm[agent]' tqdm
    python examples/fp4_gpt.py

Weights and activations are rounded to MXFP4, the format of the OCP Microscaling specification: 32 numbers of one sign
bit, two of exponent and one of mantissa share a power of two as their scale. With `steadynorm up` in another terminal
the run can be watched and changed. The two lines with arrows are steadynorm's.
"""

import char_gpt
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

import steadynorm

STEPS = 500
VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])  # of E2M1, without the sign
BETWEEN = (VALUES[1:] + VALUES[:-1]) / 2


def to_fp4(x: Tensor) -> Tensor:
    """Rounded along the last dimension, a multiple of 32. The gradient passes as if it were not."""
    blocks = x.detach().unflatten(-1, (-1, 32))
    largest = blocks.abs().amax(-1, keepdim=True).clamp_min(2.0**-125)
    scale = torch.exp2(largest.log2().floor() - 2)  # 2: the exponent of 6, the largest value
    rounded: Tensor = VALUES[torch.bucketize(blocks.abs() / scale, BETWEEN)] * blocks.sign() * scale
    return x + (rounded.flatten(-2) - x).detach()


class FP4Linear(nn.Linear):
    """A linear layer whose inputs and weights have four bits. Its master weights are float32."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functional.linear(to_fp4(x), to_fp4(self.weight), self.bias)
        return y


char_gpt.WIDTH, char_gpt.LAYERS = 64, 3
torch.manual_seed(0)
text, vocabulary = char_gpt.load_text()
generator = torch.Generator().manual_seed(0)
model = char_gpt.CharGPT(vocabulary)
for block in model.blocks:
    for name, layer in list(block.named_children()):
        if isinstance(layer, nn.Linear):
            setattr(block, name, FP4Linear(layer.in_features, layer.out_features))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

with steadynorm.attach(model, optimizer, run="fp4-gpt") as agent:  # <── one
    for step in (bar := trange(STEPS)):
        inputs, labels = char_gpt.sample_batch(text, generator)
        loss = char_gpt.loss_of(model, inputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.log(loss=loss)  # <── two
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
