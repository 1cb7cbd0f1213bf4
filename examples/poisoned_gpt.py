"""Train a character GPT through ten garbage batches, with or without being rolled back.

    steadynorm up                                                                      # in one terminal
    python examples/poisoned_gpt.py --server http://127.0.0.1:8470 --recovery act      # in another

In the middle the labels of ten batches are random, and their loss counts a thousand times. Adam's averages of squares
remember that for a thousand steps: without recovery the run hardly learns any more.
"""

from __future__ import annotations

import argparse
import sys
import time

import char_gpt
import torch

import steadynorm

POISONED, FACTOR = 10, 1000.0


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--run", default="poisoned-gpt", help="name of the run")
    parser.add_argument("--server", help="address of a steadynorm server; none: work locally")
    parser.add_argument("--recovery", default="act", choices=["off", "advise", "act"])
    parser.add_argument("--least-seconds", type=float, default=0.0, help="spread the steps over so long at the least")
    options = parser.parse_args(arguments)

    char_gpt.WIDTH, char_gpt.BATCH, char_gpt.CONTEXT = 64, 8, 32  # two of these take a minute
    torch.manual_seed(0)
    text, vocabulary = char_gpt.load_text()
    generator, garbage = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    model = char_gpt.CharGPT(vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    poisoned = range(options.steps // 2, options.steps // 2 + POISONED)

    agent = steadynorm.attach(
        model, optimizer, run=options.run, server=options.server, mode="observe",
        recovery=steadynorm.Recovery(every_steps=max(1, options.steps // 10), mode=options.recovery),
    )  # fmt: skip
    print(f"run_id: {agent.run_id}", flush=True)

    @agent.on_rollback
    def _(event: steadynorm.RollbackEvent) -> None:
        print(f"rolled back from {event.from_step} to {event.to_step}: {event.reason}", flush=True)

    began = time.monotonic()
    with agent:
        for step in range(1, options.steps + 1):
            inputs, labels = char_gpt.sample_batch(text, generator)
            if step in poisoned:
                labels = torch.randint(vocabulary, labels.shape, generator=garbage)
            loss = char_gpt.loss_of(model, inputs, labels) * (FACTOR if step in poisoned else 1.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            agent.log(loss=loss)
            if agent.should_stop:
                print(f"stopped by an operator at step {step}", flush=True)
                break
            char_gpt.wait_until(began + options.least_seconds * step / options.steps)


if __name__ == "__main__":
    main(sys.argv[1:])
