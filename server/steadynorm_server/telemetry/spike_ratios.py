"""The highest spike ratios of a run's newest row, kept beside the run: a scrape of a thousand runs reads no history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from steadynorm_contract.codec import encode_json
from steadynorm_contract.telemetry import ROW_COLUMNS, ParameterRows, floats_from_bytes

__all__ = ["KEPT", "highest", "kept", "rank"]

KEPT = 32
"""So many parameters. Who wants more in /metrics makes a scrape read the newest rows."""

_Pairs = list[tuple[int, float | None]]


def rank(ratios: Sequence[float], top: int) -> list[int]:
    """Indices of the `top` highest ratios, highest first; a non-finite one counts as none."""
    values = np.asarray(ratios, np.float32)
    order = np.argsort(-np.where(np.isfinite(values), values, np.float32(0)), kind="stable")
    return order[:top].tolist()  # type: ignore[no-any-return] # numpy cannot say that it is of ints


def kept(rows: ParameterRows) -> dict[str, str | bytes]:
    """The field of the run's hash; nothing where there is no row."""
    width = rows.parameters * len(ROW_COLUMNS)
    if not rows.steps or not width:
        return {}
    newest = floats_from_bytes(rows.data[-4 * width :])[ROW_COLUMNS.index("spike_ratio") :: len(ROW_COLUMNS)]
    return {"ratios": encode_json([(at, newest[at]) for at in rank(newest, KEPT)])}


def highest(stored: bytes, top: int) -> Mapping[int, float]:
    """Index to ratio of the `top` highest of the newest row, from the field; `top` must not exceed KEPT."""
    pairs = msgspec.json.decode(stored or b"[]", type=_Pairs)
    return {at: math.nan if ratio is None else ratio for at, ratio in pairs[:top]}
