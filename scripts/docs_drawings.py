"""Draws docs/images/spike.svg: one spike of the quick start's training, in the numbers of a run.

    .venv/bin/python scripts/docs_drawings.py

Run it again when the rule or its defaults change; it takes half a minute.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import steadynorm
from steadynorm_contract.rule import THROTTLED_TARGET, spike_ceiling
from steadynorm_contract.settings import Settings

SPIKE, STEPS, TENSOR = 1000, 5000, "2.weight"
BLUE, RED, GREEN = "#2b8cc4", "#d55e00", "#009e73"  # colour-blind people can tell them apart
STYLE = (
    "svg{background:#fff;color:#222}@media(prefers-color-scheme:dark){svg{background:#1e2129;color:#ddd}}"
    "text{fill:currentColor}.grid{stroke:currentColor;stroke-opacity:.2}.curve{fill:none;stroke-width:1.6}"
)
Rows = dict[str, list[float]]


def train() -> Rows:
    """The statistics of one tensor at every step of examples/quickstart_train.py, without a server."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.Tanh(), torch.nn.Linear(64, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    stabilizer = steadynorm.GradientStabilizer(model.named_parameters())
    rows: Rows = {name: [] for name in ("raw_norm", "norm_mean", "norm_rms", "stabilized_norm")}
    for step in range(1, STEPS + 1):
        inputs = torch.randn(64, 16)
        labels = (inputs.sin() + torch.randn(64, 16)) * (300 if step == SPIKE else 1)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), labels).backward()
        stabilizer.apply()
        optimizer.step()
        of_tensor = stabilizer.statistics()[TENSOR]
        for name, values in rows.items():
            values.append(float(of_tensor[name]))
    return rows


def panel(
    at: tuple[int, int], steps: range, low: float, high: float, curves: Sequence[tuple[Sequence[float], str]]
) -> tuple[list[str], Callable[[float], float], Callable[[float], float]]:
    """One chart with a logarithmic vertical axis, 340 × 170; its parts, and where a step and a value are in it."""
    left, top = at

    def x(step: float) -> float:
        return left + 340 * (step - steps.start) / (steps.stop - 1 - steps.start)

    def y(value: float) -> float:
        return top + 170 * (1 - math.log(value / low) / math.log(high / low))

    parts = []
    for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
        height = y(10.0**power)
        parts.append(f'<path class="grid" d="M{left} {height:.1f}h340"/>')
        parts.append(f'<text x="{left - 6}" y="{height + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    thin = max(1, len(steps) // 340)  # a point for each pixel: where there are several steps, the largest value
    for values, color in curves:
        chunks = (steps[first : first + thin] for first in range(0, len(steps), thin))
        points = [max(chunk, key=lambda step: values[step - 1]) for chunk in chunks]
        line = "L".join(f"{x(step):.1f} {y(values[step - 1]):.1f}" for step in points)
        parts.append(f'<path class="curve" stroke="{color}" d="M{line}"/>')
    return parts, x, y


def label(x: float, y: float, words: str, color: str = "", anchor: str = "start") -> str:
    """Words in the drawing."""
    style = f' style="fill:{color}"' if color else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{words}</text>'


def draw(rows: Rows) -> str:
    """The picture: on the left the spike, on the right what follows; above what arrives, below what is handed on."""
    settings = Settings()
    near, far = range(SPIKE - 10, SPIKE + 31), range(SPIKE - 500, STEPS + 1)
    ceiling = spike_ceiling(settings.gamma1, settings.gamma2)
    ratio = rows["raw_norm"][SPIKE - 1] / rows["norm_rms"][SPIKE - 2]
    throttled = sum(value < THROTTLED_TARGET for value in rows["stabilized_norm"][SPIKE:])
    norms = [(rows["raw_norm"], "#888"), (rows["norm_rms"], RED), (rows["norm_mean"], BLUE)]
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 560" font-family="sans-serif" font-size="12">',
        f"<desc>ratio {ratio:.0f}, target {rows['stabilized_norm'][SPIKE - 1]:.2f}, throttled {throttled}</desc>",
        f"<style>{STYLE}</style>",
    ]
    for left, steps in ((60, near), (460, far)):
        above, x, y = panel((left, 60), steps, 0.1, 300, norms)
        below, _, z = panel((left, 330), steps, 0.03, 30, [(rows["stabilized_norm"], GREEN)])
        parts += above + below
        for value in (ceiling, THROTTLED_TARGET):
            parts.append(f'<path class="grid" stroke-dasharray="4 3" d="M{left} {z(value):.1f}h340"/>')
        for step in (steps.start, SPIKE, steps.stop - 1):
            for height in (246, 516):
                parts.append(label(x(step), height, f"{step:,}", anchor="middle"))
        if steps is near:
            parts.append(label(x(SPIKE) + 10, y(rows["raw_norm"][SPIKE - 1]) - 2, f"{ratio:.0f} times the RMS norm"))
            parts.append(label(x(SPIKE + 12), y(5.5) - 4, "RMS norm: remembers", RED))
            parts.append(label(x(SPIKE + 9), y(1), "mean norm: forgets", BLUE))
            parts.append(label(x(SPIKE) + 14, z(7), f"target {rows['stabilized_norm'][SPIKE - 1]:.1f}", GREEN))
            parts.append(label(left + 4, z(ceiling) - 5, f"spike ceiling {ceiling:.2f}"))
        else:
            parts.append(label(x(SPIKE + 300), z(THROTTLED_TARGET) - 5, "0.3"))
            parts.append(label(x(SPIKE + 700), z(0.055), f"throttled for {throttled:,} steps", GREEN))
            parts.append(label(x(SPIKE + 1500), y(4), "RMS norm", RED))
    parts += [
        label(60, 24, f"What arrives: the gradient norm of {TENSOR} (grey), and what is remembered of it"),
        label(60, 44, "around the spike") + label(460, 44, "the whole run"),
        label(
            60,
            294,
            "What the optimizer gets: the same direction, and as its norm the target, mean norm / RMS norm",
        ),
        label(60, 314, "around the spike") + label(460, 314, "the whole run"),
        label(230, 546, "step", anchor="middle") + label(630, 546, "step", anchor="middle"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    target = Path(__file__).resolve().parent.parent / "docs" / "images" / "spike.svg"
    target.write_text(draw(train()), "utf-8")
