"""/metrics: the runs in Redis that have not ended, and the server's own metrics.

Values are gathered for each scrape, without timestamps: a run that ended is not gathered, so its series disappear. All
processes expose the same runs. Servers on several machines expose their own metrics each; workers behind one port, any
of which a scrape may reach, expose their sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steadynorm_contract.telemetry import ROW_COLUMNS
from steadynorm_server.metrics.exposition import Observed, render
from steadynorm_server.metrics.instruments import ServerMetrics
from steadynorm_server.runs.parameter_names import BATCH_SIZE
from steadynorm_server.runs.queries import RunQueries
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.telemetry import spike_ratios

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def gather(repository: RunRepository, queries: RunQueries, top: int, forget_after_s: float) -> list[Observed]:
    """All runs that have not ended and sent telemetry within forget_after_s."""
    runs = await repository.list()
    now = repository.clock()
    shown = [run for run in runs if run.is_live and run.silent_s(now) <= forget_after_s]
    observed = []
    for start in range(0, len(shown), BATCH_SIZE):
        some = shown[start : start + BATCH_SIZE]
        tables = await repository.parameter_names_of(some) if top else [[] for _ in some]
        for run, names in zip(some, tables, strict=True):
            highest = await _highest_ratios(queries, run, names, top) if names else {}
            observed.append(Observed(run, highest, run.info.parameters - len(highest)))
    return observed


async def _highest_ratios(queries: RunQueries, run: RunRecord, names: Sequence[str], top: int) -> dict[str, float]:
    found: Mapping[int, float]
    if top <= spike_ratios.STORED_TOP_N:
        found = spike_ratios.decode_top(run.ratios, top)
    else:
        row = await queries.newest_row(run)
        if row is None:
            return {}
        newest = row.mean[-row.width :][ROW_COLUMNS.index("spike_ratio") :: len(ROW_COLUMNS)]
        found = {at: newest[at] for at in spike_ratios.top_indices(newest, top)}
    return {names[at]: ratio for at, ratio in found.items()}


def exposition(runs: Sequence[Observed], metrics: ServerMetrics) -> bytes:
    """Runs and server in Prometheus' text format."""
    return render(runs) + metrics.exposition(sum(each.omitted for each in runs))
