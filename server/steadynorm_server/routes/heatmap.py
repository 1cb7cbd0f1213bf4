"""The heat map of a run: one signal of all its parameters in one answer, where /series takes them by name."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from steadynorm_contract.heatmap import HEATMAP_SIGNALS, Heatmap
from steadynorm_server.auth import Role, requires
from steadynorm_server.body import json_answer
from steadynorm_server.dependencies import ReaderOf
from steadynorm_server.problems import invalid
from steadynorm_server.schema import answers

router = APIRouter(tags=["runs"])

MAX_CELLS = 200_000
"""Of one answer. A model of very many parameters gets fewer buckets instead."""

_MAX_STEP = 2**53 - 1


@router.get("/runs/{run_id}/heatmap", dependencies=[Depends(requires(Role.VIEWER))], responses=answers(Heatmap))
async def show_heatmap(
    run_id: str,
    reader: ReaderOf,
    signal: Annotated[str, Query(description="A column of the per-parameter rows, or target")] = "spike_ratio",
    first: Annotated[int | None, Query(alias="from", ge=0, le=_MAX_STEP, description="First step")] = None,
    last: Annotated[int | None, Query(alias="to", ge=0, le=_MAX_STEP, description="Last step, inclusive")] = None,
    points: Annotated[int, Query(ge=1, le=1000, description="At most so many buckets")] = 120,
) -> Response:
    """One signal of every parameter, in model order, over the steps: each bucket's worst value."""
    if signal not in HEATMAP_SIGNALS:
        known = ", ".join(HEATMAP_SIGNALS)
        raise invalid(
            "signal", f"must be one of {known}", f"signal {signal[:60]!r} does not exist. Use one of {known}."
        )
    if first is not None and last is not None and first > last:
        raise invalid("from", "must not be after `to`", f"from must not be after to: got {first} and {last}.")
    listed = [each.name for each in (await reader.parameters(run_id)).parameters]
    if not listed:
        return json_answer(Heatmap(signal, [], [], [], [], []))
    names = [f"{signal}/{name}" for name in listed]
    found = (await reader.series(run_id, names, first, last, max(1, min(points, MAX_CELLS // len(names))))).series
    shared = found[names[0]]
    worst = [found[name].min if signal == "target" else found[name].max for name in names]
    return json_answer(Heatmap(signal, listed, shared.step, shared.count, shared.time, worst))
