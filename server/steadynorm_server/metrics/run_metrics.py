"""What /metrics shows of runs: those in Redis that have not ended, and those that ended unrecoverable a short time ago.

Values are gathered for each scrape, without timestamps: a run that ended is not gathered, so its series disappear. One
whose agent gave up and stopped it may end before any scrape, so that this is told for an hour more. All processes
expose the same runs. Servers on several machines expose their own metrics each; workers behind one port, any of which
a scrape may reach, expose their sum.
"""

from collections.abc import Mapping, Sequence

from steadynorm_contract.telemetry import ROW_COLUMNS
from steadynorm_server.metrics.exposition import Observed
from steadynorm_server.runs.parameter_names import BATCH_SIZE
from steadynorm_server.runs.queries import RunQueries
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.telemetry import spike_ratios

_TOLD_S = 3600.0
"""How long it is told of a run that it ended unrecoverable."""

_LATELY = 64
"""Runs that were touched last, among which those are looked for."""


async def gather(
    repository: RunRepository,
    queries: RunQueries,
    top: int,
    forget_after_s: float,
    top_scalars: int,
) -> list[Observed]:
    """All listed runs that have not ended and sent telemetry within forget_after_s, and those that just gave up."""
    live, lately = await repository.index.live_and_lately(_LATELY)
    found = await repository.get_many(list(dict.fromkeys([*live, *lately])))
    among = set(live)
    runs = [run for run in found if run.is_live and run.run_id in among]
    now, within_s = repository.clock(), repository.stalled_after_s
    gave_up = [
        run for run in found if not run.is_live and run.progress.given_up is not None and now - run.last_seen <= _TOLD_S
    ]
    listed = [run for run in runs if run.archived_at is None and run.removes_at is None]
    shown = [run for run in listed if run.silent_s(now) <= forget_after_s]
    observed = []
    for start in range(0, len(shown), BATCH_SIZE):
        some = shown[start : start + BATCH_SIZE]
        tables = await repository.parameter_names_of(some) if top else [[] for _ in some]
        for run, names in zip(some, tables, strict=True):
            highest = await _highest_ratios(queries, run, names, top) if names else {}
            omitted = run.info.parameters - len(highest)
            signs = run.connected(now, within_s), run.listening(now, within_s)
            observed.append(Observed(run, highest, omitted, *signs, *_scalars(run, top_scalars)))
    return [*observed, *(Observed(run, {}, 0) for run in gave_up)]


def _scalars(run: RunRecord, top: int) -> tuple[list[tuple[str, float]], int]:
    """Those that came first have series of their own, and keep them; and the number of the others."""
    views = run.logged.views()
    return [(each.name, each.value) for each in views[:top] if each.value is not None], max(0, len(views) - top)


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
