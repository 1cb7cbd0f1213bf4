"""Train a character GPT of a million parameters, watched and stabilized by steadynorm.

    steadynorm up                                                  # in one terminal
    python examples/char_gpt.py --server http://127.0.0.1:8470     # in another

The text is Python's own documentation as the interpreter carries it, so there is nothing to download. Everything here
is ordinary PyTorch but for the two lines marked with arrows.
"""

from __future__ import annotations

import argparse
import sys
import time
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn import functional

import steadynorm

CONTEXT = 64  # characters that a prediction may look back on
BATCH = 16
WIDTH = 128
HEADS = 4
LAYERS = 5


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, WIDTH))
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return x


class CharGPT(nn.Module):
    """Predicts the next character: indices [batch, length] to logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary)

    def forward(self, text: Tensor) -> Tensor:
        x: Tensor = self.characters(text) + self.positions(torch.arange(text.shape[1], device=text.device))
        for block in self.blocks:
            x = block(x)
        x = self.head(self.norm(x))
        return x


def load_text() -> tuple[Tensor, int]:
    """The text as character indices [characters], and the size of the vocabulary."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    index = {character: number for number, character in enumerate(sorted(set(text)))}
    return torch.tensor([index[character] for character in text]), len(index)


def sample_batch(text: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random inputs and the characters that follow them, both [BATCH, CONTEXT]."""
    starts = torch.randint(len(text) - CONTEXT - 1, (BATCH, 1), generator=generator)
    windows = text[starts + torch.arange(CONTEXT + 1)]
    return windows[:, :-1], windows[:, 1:]


def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy in nats a character, 0-dim."""
    return functional.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())


def wait_until(moment: float) -> None:
    """Sleep until a moment of time.monotonic(), if it is still to come."""
    time.sleep(max(0.0, moment - time.monotonic()))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--run", default="char-gpt", help="name of the run")
    parser.add_argument("--server", help="address of a steadynorm server; none: work locally")
    parser.add_argument("--mode", default="stabilize", choices=["off", "observe", "stabilize"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--least-seconds", type=float, default=0.0, help="spread the steps over so long at the least")
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    text, vocabulary = load_text()
    generator = torch.Generator().manual_seed(options.seed)
    model = CharGPT(vocabulary).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.05, total_iters=50)

    agent = steadynorm.attach(model, optimizer, run=options.run, server=options.server, mode=options.mode)  # <── one
    print(f"run_id: {agent.run_id}", flush=True)

    began = time.monotonic()
    with agent:
        for step in range(1, options.steps + 1):
            inputs, labels = (part.to(options.device) for part in sample_batch(text, generator))
            loss = loss_of(model, inputs, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            agent.log(loss=loss)  # <── two
            if step % 100 == 0 or step == options.steps:
                print(f"step {step:5d}  loss {loss.item():.3f}", flush=True)
            if agent.should_stop:
                print(f"stopped by an operator at step {step}", flush=True)
                break
            wait_until(began + options.least_seconds * step / options.steps)


if __name__ == "__main__":
    main(sys.argv[1:])
