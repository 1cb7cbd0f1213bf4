"""One incident: what the flight recorder kept around a spike or a non-finite gradient, and who went first."""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.client import Client, ClientError
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.runs import RevisionState, RunDetail
from steadynorm_contract.series import Heatmap
from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts import incident_analysis
from steadynorm_dashboard.charts.heatmap import heat_figure
from steadynorm_dashboard.charts.incident import outbreak_figure
from steadynorm_dashboard.components.live_chart import live_chart
from steadynorm_dashboard.data import queries, session
from steadynorm_dashboard.formatting import changes, escaping, numbers
from steadynorm_dashboard.panels import chart_controls, messages, page_header

__all__ = ["render"]

_EVENTS = 2000
_NEAR_STEPS = 1000
_CHART_STEPS = 200  # to each side, where the run's charts are opened
_RUNBOOK = {
    EventKind.SPIKE: "SteadynormSpikeStorm",
    EventKind.NONFINITE: "SteadynormNonfinite",
    EventKind.THROTTLED: "SteadynormThrottled",
    EventKind.STALLED: "SteadynormStalled",
    EventKind.REJECTED: "SteadynormChangeNotApplied",
    EventKind.RANK_MISMATCH: "SteadynormRankMismatch",
    EventKind.RANK_FAILED: "SteadynormAgentFailed",
    EventKind.AGENT_ERROR: "SteadynormAgentFailed",
}
_OPTIONS = {"modeBarButtons": [["zoom2d", "pan2d", "resetScale2d"]]}
_TITLES = {
    EventKind.SPIKE: "Spike",
    EventKind.NONFINITE: "Non-finite gradient",
    EventKind.THROTTLED: "Throttled",
    EventKind.RECOVERED: "Recovered",
}


def render(run_id: str, event_id: str) -> None:
    """The page. It stands still: what happened does not change any more."""
    page_header.bar(run_id=run_id)
    if session.client() is None:
        messages.sign_in()
    run, error = queries.read(f"{run_id}/run", lambda client: client.run(run_id))
    events, _ = queries.read(f"{run_id}/all events", lambda client: client.events(run_id, limit=_EVENTS))
    if run is None or events is None:
        messages.explain(error or ClientError("The server does not answer."))
        messages.try_again()
        return
    event = next((one for one in events.events if one.id == event_id), None)
    if event is None:
        st.error("This event is not kept any more, or never was. The run's table of events has the newest ones.")
        return
    where = f" in {event.parameter}" if event.parameter else ""
    st.title(
        f"{_TITLES.get(event.kind, event.kind.value)}{escaping.markdown(where, 200)} @ step {event.step:,}",
        anchor=False,
    )
    st.caption(
        f"{escaping.markdown(run.name)} · {numbers.moment(event.time, time.time(), st.context.timezone)} · "
        f"{escaping.markdown(event.message, 400)}"
    )
    _ways(run, event)
    _facts(run_id, event)
    audit, _ = queries.read(f"{run_id}/audit", lambda client: client.audit(run_id))
    entries = audit.entries if audit else []
    _recorded(run_id, event, entries)
    _changes(event, entries)


def _ways(run: RunDetail, event: Event) -> None:
    """To what to do about it, and to the run's charts of that time."""
    around = (max(0, event.step - _CHART_STEPS), min(event.step + _CHART_STEPS, max(run.step, event.step)))
    with st.container(horizontal=True, vertical_alignment="center"):
        if alert := _RUNBOOK.get(event.kind):
            navigation.link("What to do", icon=":material/menu_book:", runbook=alert, run=run.run_id)
        if st.button(
            "The run at that time",
            icon=":material/show_chart:",
            type="tertiary",
            help=f"its charts from step {around[0]:,} to {around[1]:,}",
        ):
            chart_controls.aim(run.run_id, *around)
            navigation.go(run=run.run_id)


def _facts(run_id: str, event: Event) -> None:
    left, right = st.columns([1, 1])
    with left:
        st.markdown("**The step's data**, as the training loop calls it")
        if event.batch_id:
            st.code(event.batch_id, language=None)
        else:
            st.caption("Not named. Pass `batch_id=` to `agent.log()`, and the next incident says which batch it was.")
    with right:
        st.markdown("**Link** for a colleague; it holds no token")
        st.code(navigation.address(run=run_id, incident=event.id), language=None)


def _recorded(run_id: str, event: Event, entries: list[AuditEntry]) -> None:
    key = f"{run_id}/incident/{event.id}"
    read, error = queries.read(key, lambda client: _read(client, run_id, event.step))
    if read is None:
        messages.explain(error or ClientError("The server does not answer."))
        messages.try_again()
        return
    norms, ratios, targets = read
    if not norms.step:
        st.info(
            "No parameter rows of these steps are kept any more. The charts of the run still have every step's totals.",
            icon=":material/history:",
        )
        return
    bad = incident_analysis.struck(norms, ratios, targets)
    st.subheader("Who went first", anchor=False)
    if event.step not in norms.step:
        # Of what is left the first one came later: to name it would accuse the wrong one.
        named = f" The event itself names **{escaping.markdown(event.parameter, 200)}**." if event.parameter else ""
        st.info(
            f"The rows of step {event.step:,} are not kept, so nobody can "
            f"tell from them who went first.{named} What follows is of the steps around it that are kept, "
            f"{norms.step[0]:,} to {norms.step[-1]:,}.",
            icon=":material/history:",
        )
    elif bad and bad[0].step <= event.step:
        others = sum(one.step == bad[0].step for one in bad) - 1
        together = f", in the same step as {others} other{'s' if others > 1 else ''}" if others else ""
        st.markdown(
            f"**{escaping.markdown(bad[0].name, 200)}** at step {bad[0].step:,}{together}. {len(bad)} of "
            f"{len(norms.parameters):,} parameters spiked or were not finite in steps {norms.step[0]:,} to "
            f"{norms.step[-1]:,}."
        )
    else:
        st.caption(f"No parameter spiked up to step {event.step:,} in the rows that are kept.")
    if bad:
        st.dataframe(
            incident_analysis.struck_rows(bad, event.step, ordered=event.step in norms.step),
            key=f"{key}/table",
            hide_index=True,
            height=min(420, 38 + 35 * len(bad)),
            placeholder=numbers.MISSING,
            column_config=_columns(),
        )
    if figure := outbreak_figure(norms, targets, bad, event, entries):
        live_chart(figure, key=f"{key}/chart", options=_OPTIONS)
    st.markdown("**All layers** around it; each cell one step. A click opens the parameter.")
    if map_ := heat_figure(ratios, [event], revision=key):
        clicked = live_chart(map_, key=f"{key}/heat", options=_OPTIONS, clicks=True).clicked
        if clicked in ratios.parameters:
            navigation.go(run=run_id, parameter=clicked)


def _read(client: Client, run_id: str, step: int) -> tuple[Heatmap, Heatmap, Heatmap]:
    start, stop = max(0, step - incident_analysis.AROUND), step + incident_analysis.AROUND
    norms, ratios, targets = (
        client.heatmap(run_id, signal, start=start, stop=stop, points=2 * incident_analysis.AROUND + 1)
        for signal in ("raw_norm", "spike_ratio", "target")
    )
    return norms, ratios, targets


def _columns() -> dict[str, Any]:
    number = st.column_config.NumberColumn
    return {
        "parameter": st.column_config.TextColumn(width="large"),
        "largest ratio": number(format="%.4g", help="norm over the RMS norm before it; above 10 is a spike"),
        "norm before": number(format="%.4g", help="median L2 norm of the recorded steps before its first bad step"),
        "peak": number(format="%.4g", help="largest L2 norm from then on"),
        "norm after": number(format="%.4g", help="median L2 norm after its last bad step"),
        "lowest target": number(format="%.3g", help="from then on; below 0.3 the update is throttled"),
    }


def _changes(event: Event, entries: list[AuditEntry]) -> None:
    st.subheader("What was changed near it", anchor=False)
    near = [
        entry
        for entry in entries
        if entry.state is RevisionState.APPLIED
        and entry.applied_step is not None
        and abs(entry.applied_step - event.step) <= _NEAR_STEPS
    ]
    if not near:
        st.caption(f"No settings were changed within {_NEAR_STEPS:,} steps of it.")
    for entry in sorted(near, key=lambda entry: entry.applied_step or 0):
        away = (entry.applied_step or 0) - event.step
        when = f"{abs(away):,} steps {'before' if away < 0 else 'after'}" if away else "at this very step"
        why = f" · {escaping.markdown(entry.reason, 200)}" if entry.reason else ""
        st.markdown(
            f"**r{entry.revision}** {when}: {escaping.markdown(changes.change_words(entry), 300)} · "
            f"{escaping.markdown(entry.actor, 60)}{why}"
        )
