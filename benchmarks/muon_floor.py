"""How far a clip of the total norm can push Muon's matrices under the floor of its normalization.

    python benchmarks/muon_floor.py [--side 64]

Muon divides each update by its norm, or by 1e-7 where the norm is smaller, and then makes all singular values about 1.
A clip multiplies all gradients by one factor, so a fault of one tensor (an embedding under another optimizer) also
shrinks the matrices that have none. Each row: the fault's factor and how many of Muon's steps it lasts, from the first
step on or after 200 calm ones; then the mean singular value of the last step's update without anything, with
`clip_grad_norm_` at 1.0, and with `GradientStabilizer`, which takes each tensor by itself.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

from steadynorm import PRESETS, GradientStabilizer

FACTORS = (1e6, 1e8, 1e9, 1e10)
LASTS = ((0, 1), (200, 20), (200, 400))
"""(calm steps before, steps with the fault)."""


def update(method: str, side: int, factor: float, calm: int, lasts: int) -> float:
    """Mean singular value of the last update: near 0.9 for a matrix that Muon could normalize."""
    generator = torch.Generator().manual_seed(0)
    matrix, other = (nn.Parameter(torch.zeros(side, side)) for _ in range(2))
    muon = torch.optim.Muon([matrix], lr=1.0, weight_decay=0.0)
    stabilizer = GradientStabilizer([("matrix", matrix), ("other", other)], **PRESETS["robust"])  # type: ignore[arg-type]  # settings
    for step in range(calm + lasts):
        for parameter in (matrix, other):
            parameter.grad = torch.randn(side, side, generator=generator) / side  # of norm 1
        if step >= calm:
            other.grad.mul_(factor)  # type: ignore[union-attr]  # it has one
        if method == "clip":
            nn.utils.clip_grad_norm_([matrix, other], 1.0)
        elif method == "stabilize":
            stabilizer.apply()
        with torch.no_grad():
            matrix.zero_()
        muon.step()
    return float(torch.linalg.svdvals(matrix.detach()).mean())


def main() -> None:
    """One line for each fault."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=int, default=64, help="of the square matrices")
    side = parser.parse_args().side
    torch.set_num_threads(1)
    print("calm before  lasts  factor  nothing  clip 1.0  stabilize")
    for calm, lasts in LASTS:
        for factor in FACTORS:
            found = [update(method, side, factor, calm, lasts) for method in ("nothing", "clip", "stabilize")]
            print(f"{calm:11}  {lasts:5}  {factor:6.0e}  {found[0]:7.2f}  {found[1]:8.2f}  {found[2]:9.2f}")


if __name__ == "__main__":
    main()
