"""What the agent costs beyond the stabilizer: the demo training, streamed to a real local server.

    python benchmarks/agent_overhead.py [--of agent] [--rounds 30] [--block 25] [--threads 1] [--device cpu]

Three identical trainings in one process: one with the agent, two with the stabilizer alone. They take turns in blocks
of steps, and the order changes each round, so that whatever else the machine does hits all alike. Shown is the median
over rounds of one training's time over another's; the two that are the same give the A/A control. What the agent's
threads do between its blocks would be missing: so its backlog is sent before the others' turn, and one line counts the
whole time that this takes as if training had waited for it. On a machine where others are at work the training thread's
own processor time tells more than the clock, and the median call of `log()` more than either.

--of scalars: an agent that logs ten tensors of the device in each step, over two agents that do not. --of sink: one
that also writes to TensorBoard. --of hanging: one whose sink never returns from its first write.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

import steadynorm
from steadynorm.sinks import Sink, TensorBoard
from steadynorm_cli.local_stack import LocalStack

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from char_gpt import CharGPT, load_text, loss_of, sample_batch  # the examples are no package

TEXT, VOCABULARY = load_text()
SCALARS = 10


class Hanging:
    """A sink that never returns."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Wait for ever."""
        threading.Event().wait()


class Loop:
    """One training. Its agent, if it has one, sends to `stack`."""

    def __init__(
        self, stack: LocalStack | None, home: Path, device: str, scalars: int = 0, sinks: Sequence[Sink] = ()
    ) -> None:
        torch.manual_seed(0)
        self._generator = torch.Generator().manual_seed(0)
        self._device = device
        self._model = CharGPT(VOCABULARY).to(device)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-3)
        self.cpu_s: list[float] = []  # of the training thread, in each step
        self.log_s: list[float] = []  # of each call of log()
        self._own = {f"own/{at}": torch.full((), float(at), device=device) for at in range(scalars)}
        self.agent: steadynorm.Agent | None = None
        self._stabilize: Callable[[], None] = lambda: None
        if stack is None:
            self._stabilize = steadynorm.GradientStabilizer(self._model.named_parameters()).apply
        else:
            token = (home / "token").read_text("ascii").strip()
            self.agent = steadynorm.attach(
                self._model, self._optimizer, run="agent-overhead", server=stack.server, token=token, sinks=sinks
            )

    def block(self, steps: int) -> tuple[float, float]:
        """Seconds of `steps` steps; and with what is left to be sent after them."""
        began = time.perf_counter()
        for _ in range(steps):
            cpu = time.thread_time()
            batch = sample_batch(TEXT, self._generator)
            loss = loss_of(self._model, *(part.to(self._device) for part in batch))
            self._optimizer.zero_grad()
            loss.backward()
            self._stabilize()
            self._optimizer.step()
            if self.agent is not None:
                called = time.perf_counter()
                self.agent.log(self._own, loss=loss)
                self.log_s.append(time.perf_counter() - called)
            self.cpu_s.append(time.thread_time() - cpu)
        if self._device == "cuda":
            torch.cuda.synchronize()
        trained = time.perf_counter()
        if self.agent is not None and not self.agent.flush(30):
            raise SystemExit("the server did not take the data in time")
        return trained - began, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--of", choices=("agent", "scalars", "sink", "hanging"), default="agent")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--block", type=int, default=25, help="steps")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder, LocalStack(Path(folder), port=0, dashboard=False) as stack:
        home, device = Path(folder), options.device
        attached: dict[str, list[Sink]] = {"sink": [TensorBoard(home / "tensorboard")], "hanging": [Hanging()]}
        plain = None if options.of == "agent" else stack
        scalars = SCALARS if options.of == "scalars" else 0
        loops = [
            Loop(plain, home, device),
            Loop(plain, home, device),
            Loop(stack, home, device, scalars, attached.get(options.of, [])),
        ]
        for loop, _ in itertools.product(loops, range(2)):
            loop.block(5)
        for loop in loops:
            loop.cpu_s.clear()
            loop.log_s.clear()
        times: list[list[float]] = [[], [], []]
        with_sending: list[float] = []
        for round_ in range(options.rounds):
            for place in range(3):
                which = (round_ + place) % 3
                trained_s, all_s = loops[which].block(options.block)
                times[which].append(trained_s)
                if which == 2:
                    with_sending.append(all_s)
        for loop in loops:
            if loop.agent is not None:
                loop.agent.close()
        agent = loops[2].agent
        assert agent is not None
        counters = agent.counters
    base_name = "stabilizer" if options.of == "agent" else "agent"
    labels = (base_name, f"{base_name} again", "agent" if options.of == "agent" else f"agent, {options.of}")
    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.rounds} rounds of {options.block} steps")
    for label, each, loop in zip(labels, times, loops, strict=True):
        called = f"{1e6 * statistics.median(loop.log_s):.0f} us a call of log()" if loop.log_s else ""
        step_ms, cpu_ms = 1000 * statistics.median(each) / options.block, 1000 * statistics.median(loop.cpu_s)
        print(f"  {label:<18} {step_ms:8.2f} ms a step, {cpu_ms:.2f} ms of its thread  {called}")
    base = [(a + b) / 2 for a, b in zip(times[0], times[1], strict=True)]
    starts = range(0, options.rounds * options.block, options.block)
    blocks = [[statistics.median(loop.cpu_s[at : at + options.block]) for at in starts] for loop in loops]
    base_cpu = [(a + b) / 2 for a, b in zip(blocks[0], blocks[1], strict=True)]
    shown = {
        "A/A control": (times[1], times[0]),
        f"{labels[2]} over {base_name}": (times[2], base),
        "the same, sending counted in full": (with_sending, base),
        "A/A control, processor time": (blocks[1], blocks[0]),
        "processor time of the thread": (blocks[2], base_cpu),
    }
    for label, (above, below) in shown.items():
        ratios = sorted(a / b for a, b in zip(above, below, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
        print(
            f"  {label:<34} median {statistics.median(ratios) - 1:+.2%}   middle half {low - 1:+.2%} to {high - 1:+.2%}"
        )
    print(f"  {counters.acknowledged} records stored, {counters.dropped} dropped")


if __name__ == "__main__":
    main()
