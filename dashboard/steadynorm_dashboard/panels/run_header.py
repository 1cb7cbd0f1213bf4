"""The top of a run's page: its name and state, a sentence about its health, and its current numbers."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.client import ClientError
from steadynorm_contract.runs import RunDetail, RunState
from steadynorm_contract.signals import signal
from steadynorm_contract.words import counted
from steadynorm_dashboard import grafana_links, navigation
from steadynorm_dashboard.components.live_region import live_region
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import escaping, numbers, run_health, status, throttling, timeline
from steadynorm_dashboard.panels import messages, page_header, remedy

_LABELS = {"steps_per_s": "steps/s", "nonfinite": "non-finite", "spikes": "tensor spikes"}  # short enough for one line


@st.fragment(run_every=2)
def panel(run_id: str) -> None:
    """The header, live."""
    run, error = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    if run is None:
        messages.show_error(error or ClientError("no answer"))
        return
    live_region(announcement(run))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.title(escaping.markdown(run.name), anchor=False, width="content")
        for state in status.badges_of(run):
            page_header.badge(state)
        for key, value in list(run.tags.items())[:6]:
            st.badge(escaping.badge(f"{key}={value}", 60), color="gray")
        navigation.link("compare", icon=":material/stacked_line_chart:", help="with other runs", compare=run_id)
        if url := grafana_links.run_url(run):
            st.link_button("Grafana", url, icon=":material/monitoring:", type="tertiary", help="this run in Grafana")
    if error is None:
        st.caption(_about(run))
    else:
        messages.stale_data()
    _health(run)
    for finding in run.findings:
        st.warning(escaping.markdown(finding, 1000), icon=":material/troubleshoot:")
    if run.end_reason:
        show = st.error if run.state is RunState.FAILED else st.info
        show(escaping.markdown(run.end_reason, 400), icon=":material/flag:")
    values = {
        "steps_per_s": numbers.number(run.steps_per_s if run.state is RunState.RUNNING else None, 3),
        "loss": numbers.number(run.loss),
        "raw_norm": numbers.number(run.raw_norm),
        "stabilized_norm": numbers.number(run.stabilized_norm),
        "target_min": numbers.number(run.target_min, 3),
        "spikes": numbers.number(run.counters.spikes),
        "nonfinite": numbers.number(run.counters.nonfinite),
    }
    with st.container(key="numbers"):  # style.css places them
        st.metric("step", numbers.number(run.step), help="Optimizer steps.")
        for name, value in values.items():
            of = signal(name)
            st.metric(_LABELS.get(name, of.title), value, help=of.description)


def announcement(run: RunDetail) -> str:
    """What screen readers say when it changes: state, health, and whether the newest change is applied."""
    states = ", ".join(state.word for state in status.badges_of(run))
    desired, applied = run.desired, run.applied
    if desired.revision != applied.revision:
        settings = f"Change r{desired.revision} is {desired.state.value}"
    elif applied.revision:
        settings = f"Change r{applied.revision} is applied since step {applied.step:,}"
    else:
        settings = "Its settings are those it was registered with"
    return f"{escaping.visible(run.name, 80)}: {states}. {settings}."


def _health(run: RunDetail) -> None:
    """The health in one sentence, with links. Always one line, so that the layout does not move when a run spikes."""
    events, _ = queries.fetch(f"{run.run_id}/events", lambda client: client.events(run.run_id), share="newest")
    if events is None:
        return
    zone = st.context.timezone
    throttled = run.state.is_live and throttling.current(events.events) is not None
    health = run_health.summarize(
        run,
        events.events,
        time.time(),
        zone,
        more=events.next is not None,
        extent=remedy.extent(run) if throttled else "",
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        text = escaping.markdown(health.text, 500)
        st.markdown(f"**{text}**" if health.alert else text, width="content")
        if health.event:
            navigation.link("incident", icon=":material/troubleshoot:", run=run.run_id, incident=health.event)
            if words := timeline.incident_words(run.incidents, health.event):
                st.badge(escaping.badge(words, 60), icon=":material/front_hand:", color="gray")
        if health.alert:
            navigation.link("what to do", icon=":material/menu_book:", runbook=health.alert, run=run.run_id)
        if health.throttled:
            remedy.buttons(run, "header")


def _about(run: RunDetail) -> str:
    parts = [
        run.run_id,
        counted(run.parameters, "parameter tensor"),
        run.framework,
        f"{run.world_size} ranks; loss and batch ids are rank 0's" if run.world_size > 1 else "",
        f"on {run.host}" if run.host else "",
        f"started {numbers.duration(time.time() - run.started)} ago",
        f"last seen {numbers.duration(time.time() - run.last_seen)} ago",
        f"settings {status.settings_words(run)}",
        f"{counted(run.counters.dropped, 'record')} dropped" if run.counters.dropped else "",
        counted(run.counters.nonfinite_losses, "non-finite loss", "non-finite losses")
        if run.counters.nonfinite_losses
        else "",
        f"agent: {run.self_check}" if run.self_check else "",
    ]
    return " · ".join(escaping.markdown(part) for part in parts if part)
