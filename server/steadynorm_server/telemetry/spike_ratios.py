"""The highest spike ratios of a run's newest row, stored in its hash so that a scrape reads no history."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from steadynorm_contract.codec import encode_json
from steadynorm_contract.telemetry import ROW_COLUMNS, ParameterRows, floats_from_bytes

STORED_TOP_N = 32
"""Parameters per run. A larger `top_parameters` makes a scrape read the newest rows."""

_Pairs = list[tuple[int, float | None]]


def top_indices(ratios: Sequence[float], top: int) -> list[int]:
    """Indices of the `top` highest ratios, highest first; a non-finite ratio counts as 0."""
    values = np.asarray(ratios, np.float32)
    values = np.where(np.isfinite(values), values, np.float32(0))
    chosen = np.arange(len(values))
    if len(values) > 16 * top:  # else sorting all is quicker
        least = np.partition(values, -top)[-top]
        chosen = np.flatnonzero(values >= least)  # with ties, of which the first ones count
    order = np.argsort(-values[chosen], kind="stable")
    return chosen[order[:top]].tolist()  # type: ignore[no-any-return] # numpy's tolist is untyped


def encode_top(rows: ParameterRows) -> dict[str, str | bytes]:
    """The field of the run's hash; empty where there is no row."""
    width = rows.parameters * len(ROW_COLUMNS)
    if not rows.steps or not width:
        return {}
    newest = floats_from_bytes(rows.data[-4 * width :])[ROW_COLUMNS.index("spike_ratio") :: len(ROW_COLUMNS)]
    return {"ratios": encode_json([(at, newest[at]) for at in top_indices(newest, STORED_TOP_N)])}


def decode_top(stored: bytes, top: int) -> Mapping[int, float]:
    """Index to ratio of the `top` highest of the newest row, from the field; top <= STORED_TOP_N."""
    pairs = msgspec.json.decode(stored or b"[]", type=_Pairs)
    return {at: math.nan if ratio is None else ratio for at, ratio in pairs[:top]}
