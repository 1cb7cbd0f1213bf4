"""What follows from now on with changed settings: one sentence, a table, and what the table does not show."""

from __future__ import annotations

import streamlit as st

from steadynorm_contract import forecast
from steadynorm_contract.forecast import HORIZONS, Present
from steadynorm_contract.runs import RunDetail
from steadynorm_contract.settings import Settings
from steadynorm_dashboard.components.data_table import data_table
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import escaping, outlook


def tensors(run: RunDetail) -> list[Present]:
    """The tensors that are throttled most, as they are now; none where too little is recorded."""
    parameters, _ = queries.fetch(
        f"{run.run_id}/parameters", lambda client: client.parameters(run.run_id), share="newest"
    )
    audit, _ = queries.fetch(f"{run.run_id}/audit", lambda client: client.audit(run.run_id), share="newest")
    if parameters is None or audit is None or parameters.step is None:
        return []
    worst = forecast.candidates(parameters)
    names = [f"raw_norm/{each.name}" for each in worst]
    if not names:
        return []
    norms, _ = queries.fetch(
        f"{run.run_id}/recent norms/{names}",
        lambda client: client.series(run.run_id, names, start=forecast.recent(run), points=10_000),
        share="newest",
    )
    return forecast.present(run, worst, norms, audit.entries, parameters.step) if norms else []


def panel(run: RunDetail, now: Settings, *, key: str, table: bool = True) -> None:
    """The forecast for the settings `now`, beside the one for those in force."""
    was, present = run.applied.settings, tensors(run)
    changed = [forecast.forecast(each, was, now) for each in present]
    without = [forecast.forecast(each, was, was) for each in present]
    if not present:
        st.caption("Too few steps are recorded to say what follows.")
    else:
        st.markdown(outlook.headline(without, changed, now))
        if table:
            data_table(outlook.rows(without, changed), key=key, name="From now on")
    for sentence in forecast.consequences(was, now, changed, run.health):
        st.markdown(f":material/info: {escaping.markdown(sentence, 400)}")
    if present and table:
        st.caption(
            "The rule, advanced from the present statistics by norms like the recent ones, for the parameters with the "
            "smallest targets. As it is → with this change. Update size: the gradient that the optimizer sees in "
            f"{HORIZONS[0]} steps, times lr_scale, as a multiple of the present one."
        )
