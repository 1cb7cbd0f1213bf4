"""One number of every parameter over the steps, as a matrix: GET /runs/{run_id}/heatmap."""

from __future__ import annotations

import msgspec

__all__ = ["HEATMAP_SIGNALS", "Heatmap"]

HEATMAP_SIGNALS = ("raw_norm", "norm_mean", "norm_rms", "scale", "spike_ratio", "target")
"""What can be asked for: the columns of the per-parameter rows, and the target."""


class Heatmap(msgspec.Struct, frozen=True):
    """One signal of all parameters, in model order, over buckets of consecutive steps.

    `step` is a bucket's first recorded step, `count` the steps recorded in it, `time` the first one's Unix seconds.
    `extreme` has one list a parameter, with one entry a bucket: its largest finite value, or its smallest where the
    signal is `target`, since a low one is the bad one; null where there is none, as where every norm was NaN.
    """

    signal: str
    parameters: list[str]
    step: list[int]
    count: list[int]
    time: list[float]
    extreme: list[list[float | None]]
