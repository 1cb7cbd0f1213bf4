"""One incident: what the flight recorder stored around a spike or non-finite gradient, and what was affected first."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.client import Client, ClientError
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.runs import RunDetail
from steadynorm_contract.series import Heatmap
from steadynorm_contract.signals import signal
from steadynorm_contract.words import counted
from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts import incident_analysis
from steadynorm_dashboard.charts.heatmap import heatmap_figure
from steadynorm_dashboard.charts.incident import incident_figure
from steadynorm_dashboard.components.data_table import data_table
from steadynorm_dashboard.components.live_chart import live_chart
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import escaping, numbers, throttling
from steadynorm_dashboard.panels import chart_controls, messages, notes, page_header, quiet, remedy
from steadynorm_dashboard.runbook import ALERTS

_EVENTS = 2000
_CHART_STEPS = 200  # on each side, in the link to the run's charts
_TITLES = {
    EventKind.SPIKE: "Spike",
    EventKind.NONFINITE: "Non-finite gradient",
    EventKind.THROTTLED: "Throttled",
    EventKind.FALLING: "Falling norms",
    EventKind.RECOVERED: "Recovered",
}
_HELP = {
    "largest ratio": signal("spike_ratio").description,
    "norm before": "Median L2 norm of the recorded steps before its first bad step.",
    "peak": "Largest L2 norm from then on.",
    "norm after": "Median L2 norm after its last bad step.",
    "lowest target": f"From then on. {signal('target').description}",
}


def render(run_id: str, event_id: str) -> None:
    """The page. It has no live parts: the recorded data does not change any more."""
    page_header.bar(run_id=run_id)
    run, error = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    events, _ = queries.fetch(f"{run_id}/all events", lambda client: client.events(run_id, limit=_EVENTS))
    if run is None or events is None:
        messages.show_error(error or ClientError("The server does not answer."))
        messages.rerun_when_reachable()
        return
    event = next((one for one in events.events if one.id == event_id), None)
    if event is None:
        st.error("This event does not exist or is no longer stored. The run's Events tab lists the newest ones.")
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
    spike = throttling.cause(event, events.events) if event.kind is EventKind.THROTTLED else None
    if spike is not None:
        st.markdown(f"**Caused by** the {escaping.markdown(throttling.spike_words(spike), 500)}.")
    quiet.runs(run_id)
    _links(run, event, spike)
    remedy.panel(run_id, event.id, "incident")
    notes.incident(run_id, event)
    _facts(run, event, spike)
    audit, _ = queries.fetch(f"{run_id}/audit", lambda client: client.audit(run_id))
    entries = audit.entries if audit else []
    _recorded(run_id, event, entries)
    st.fragment(notes.near, run_every=3)(run_id, event.step, event.id)


def _links(run: RunDetail, event: Event, spike: Event | None) -> None:
    """To the spike that caused it, to the runbook, and to the run's charts around the event."""
    around = (max(0, event.step - _CHART_STEPS), min(event.step + _CHART_STEPS, max(run.step, event.step)))
    with st.container(horizontal=True, vertical_alignment="center"):
        if spike is not None:
            label = f"Spike at step {spike.step:,}"
            navigation.link(label, icon=":material/electric_bolt:", run=run.run_id, incident=spike.id)
        if alert := ALERTS.get(event.kind):
            navigation.link("What to do", icon=":material/menu_book:", runbook=alert, run=run.run_id)
        if st.button(
            "Charts around this step",
            icon=":material/show_chart:",
            type="tertiary",
            help=f"the run's charts from step {around[0]:,} to {around[1]:,}",
        ):
            chart_controls.open_at(run.run_id, *around)
            navigation.open_page(run=run.run_id)


def _facts(run: RunDetail, event: Event, spike: Event | None) -> None:
    left, right = st.columns([1, 1])
    with left:
        rank = f", rank 0 of {run.world_size}" if run.world_size > 1 else ""
        whose = "spike's step" if spike is not None else "step"
        st.markdown(f"**Batch id** of the {whose}, from the training loop{rank}")
        if batch_id := (spike or event).batch_id:
            st.code(batch_id, language=None)
        else:
            st.caption("Unknown. Pass `batch_id=` to `agent.log()` to record it.")
    with right:
        page_header.share_link(run=run.run_id, incident=event.id)


def _recorded(run_id: str, event: Event, entries: list[AuditEntry]) -> None:
    key = f"{run_id}/incident/{event.id}"
    read, error = queries.fetch(key, lambda client: _read(client, run_id, event.step))
    if read is None:
        messages.show_error(error or ClientError("The server does not answer."))
        messages.rerun_when_reachable()
        return
    norms, ratios, targets = read
    if not norms.step:
        st.info(
            "Parameter rows of these steps are no longer stored. The run's charts still have the totals of every step.",
            icon=":material/history:",
        )
        return
    affected = incident_analysis.affected_parameters(norms, ratios, targets)
    st.header("First affected parameters", anchor=False)
    if event.step not in norms.step:
        # The first one in the remaining rows was affected later: naming it would be wrong.
        named = f" The event itself names **{escaping.markdown(event.parameter, 200)}**." if event.parameter else ""
        st.info(
            f"The rows of step {event.step:,} are no longer stored, so the first affected parameter is unknown.{named} "
            f"The table covers the stored steps around it, {norms.step[0]:,} to {norms.step[-1]:,}.",
            icon=":material/history:",
        )
    elif affected and affected[0].step <= event.step:
        others = sum(one.step == affected[0].step for one in affected) - 1
        together = f", in the same step as {counted(others, 'other')}" if others else ""
        st.markdown(
            f"**{escaping.markdown(affected[0].name, 200)}** at step {affected[0].step:,}{together}. "
            f"{len(affected)} of {counted(len(norms.parameters), 'parameter')} spiked or were not finite in steps "
            f"{norms.step[0]:,} to {norms.step[-1]:,}."
        )
    else:
        st.caption(f"No parameter spiked up to step {event.step:,} in the stored rows.")
    if affected:
        data_table(
            incident_analysis.affected_rows(affected, event.step, ordered=event.step in norms.step),
            key=key,
            name="Affected parameters",
            links=[{"run": run_id, "parameter": one.name} for one in affected],
            help=_HELP,
            sortable=("parameter", "first bad step", "bad steps", *_HELP),
        )
    if figure := incident_figure(norms, targets, affected, event, entries):
        live_chart(figure, key=f"{key}/chart", name="Norms around the event")
    st.header("All layers", anchor=False)
    st.caption("Each cell is one step around the event. Click one to open the parameter.")
    if heatmap := heatmap_figure(ratios, [event], revision=key):
        clicked = live_chart(heatmap, key=f"{key}/heat", name="Map of layers around the event", clicks=True).clicked
        if clicked in ratios.parameters:
            navigation.open_page(run=run_id, parameter=clicked)


def _read(client: Client, run_id: str, step: int) -> tuple[Heatmap, Heatmap, Heatmap]:
    start, stop = max(0, step - incident_analysis.AROUND), step + incident_analysis.AROUND
    norms, ratios, targets = (
        client.heatmap(run_id, signal, start=start, stop=stop, points=2 * incident_analysis.AROUND + 1)
        for signal in ("raw_norm", "spike_ratio", "target")
    )
    return norms, ratios, targets
