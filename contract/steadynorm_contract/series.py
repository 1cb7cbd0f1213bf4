"""A run's recorded history: series of a name in buckets, the heat map of all parameters, the parameter table."""

import msgspec

from steadynorm_contract.signals import PARAMETER_SIGNALS

__all__ = ["HEATMAP_SIGNALS", "Heatmap", "ParameterList", "ParameterView", "Series", "SeriesResponse"]

HEATMAP_SIGNALS = tuple(each.name for each in PARAMETER_SIGNALS)
"""Signals that a heat map can show."""


class Heatmap(msgspec.Struct, frozen=True):
    """One signal of all parameters, in model order, over buckets of consecutive steps.

    `step` is a bucket's first recorded step, `count` the steps recorded in it, `time` the first one's Unix seconds.
    `extreme` has one list per parameter with one entry per bucket: the largest finite value, or the smallest one of
    `target`, whose low values matter; null where there is none, such as where every norm was NaN.
    """

    signal: str
    parameters: list[str]
    step: list[int]
    count: list[int]
    time: list[float]
    extreme: list[list[float | None]]


class Series(msgspec.Struct, frozen=True):
    """One series in buckets of consecutive steps. All lists have one entry per bucket.

    `step` is a bucket's first step and `count` the steps recorded in it. min, mean and max are over the finite values
    of the bucket, null where there is none.
    """

    step: list[int]
    count: list[int]
    min: list[float | None]
    mean: list[float | None]
    max: list[float | None]
    time: list[float] = []  # Unix seconds of each bucket's first step


class SeriesResponse(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/series. Names: a scalar column, or raw_norm/blocks.0.weight."""

    series: dict[str, Series]


class ParameterView(msgspec.Struct, frozen=True, kw_only=True):
    """One row of GET /runs/{run_id}/parameters: the newest recorded row of a parameter. Numbers are null before it."""

    name: str
    shape: list[int]
    dtype: str
    numel: int
    raw_norm: float | None = None
    norm_mean: float | None = None
    norm_rms: float | None = None
    scale: float | None = None
    spike_ratio: float | None = None
    target: float | None = None
    spike_ratio_max: float | None = None  # the largest since the run began
    spikes: int = 0  # spikes seen in recorded rows


class ParameterList(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/parameters, in model order. `step` is the step of the newest rows; null before them.

    `next`: cursor of the parameters after these; null: there are none.
    """

    step: int | None
    parameters: list[ParameterView]
    next: str | None = None
