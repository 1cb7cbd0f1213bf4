"""The head of a run's page: its name and state, since when it is in trouble and what to do, and its numbers."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.client import ClientError
from steadynorm_contract.runs import RunDetail, RunState
from steadynorm_dashboard import grafana_links, navigation
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import escaping, numbers, run_health, status
from steadynorm_dashboard.panels import messages, page_header

__all__ = ["panel"]

_METRIC_PX = 146


@st.fragment(run_every=2)
def panel(run_id: str) -> None:
    """What is known of the run, live."""
    run, error = queries.read(f"{run_id}/run", lambda client: client.run(run_id))
    if run is None:
        messages.explain(error or ClientError("no answer"))
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.title(escaping.markdown(run.name), anchor=False, width="content")
        for look in status.looks_of(run):
            page_header.badge(look)
        for key, value in list(run.tags.items())[:6]:
            st.badge(escaping.badge(f"{key}={value}", 60), color="gray")
        navigation.link("compare", icon=":material/stacked_line_chart:", help="with other runs", compare=run_id)
        if there := grafana_links.run_address(run):
            words = "this run, beside your other metrics"
            st.link_button("Grafana", there, icon=":material/monitoring:", type="tertiary", help=words)
    if error is None:
        st.caption(_about(run))
    else:
        messages.held()
    _trouble(run)
    if run.end_reason:
        tell = st.error if run.state is RunState.FAILED else st.info
        tell(escaping.markdown(run.end_reason, 400), icon=":material/flag:")
    speed = run.steps_per_s if run.state is RunState.RUNNING else None
    metrics = (
        ("step", numbers.number(run.step), "optimizer steps"),
        ("steps/s", numbers.number(speed, 3), "over the last batches"),
        ("loss", numbers.number(run.loss), "as the training loop logged it last"),
        ("raw norm", numbers.number(run.raw_norm), "L2 over all parameters, before the stabilizer"),
        ("stabilized norm", numbers.number(run.stabilized_norm), "the same, after it"),
        ("smallest target", numbers.number(run.target_min, 3), "of all parameters; below 0.3 the run is throttled"),
        ("spikes", numbers.number(run.counters.spikes), "(parameter, step) pairs above 10 times the RMS norm"),
        (
            "non-finite",
            numbers.number(run.counters.nonfinite),
            "(parameter, step) pairs with NaN or infinite gradients",
        ),
    )
    with st.container(horizontal=True, gap="small"):  # of a fixed width each: a narrow window has them in two rows
        for label, value, words in metrics:
            st.metric(label, value, help=words, width=_METRIC_PX)


def _trouble(run: RunDetail) -> None:
    """Since when, which layer, where to read on. Always one line, so that nothing jumps when a run spikes."""
    events, _ = queries.read(f"{run.run_id}/events", lambda client: client.events(run.run_id), share="newest")
    if events is None:
        return
    zone = st.context.timezone
    told = run_health.trouble(run, events.events, time.time(), zone, more=events.next is not None)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        words = escaping.markdown(told.words, 300)
        st.markdown(f"**{words}**" if told.alert else words, width="content")
        if told.event:
            navigation.link("incident", icon=":material/troubleshoot:", run=run.run_id, incident=told.event)
        if told.alert:
            navigation.link("what to do", icon=":material/menu_book:", runbook=told.alert, run=run.run_id)


def _about(run: RunDetail) -> str:
    parts = [
        run.run_id,
        f"{run.parameters:,} parameter tensors",
        run.framework,
        f"{run.world_size} ranks" if run.world_size > 1 else "",
        f"on {run.host}" if run.host else "",
        f"started {numbers.duration(time.time() - run.started)} ago",
        f"last seen {numbers.duration(time.time() - run.last_seen)} ago",
        f"settings {status.settings_words(run)}",
        f"{run.counters.dropped:,} records dropped" if run.counters.dropped else "",
    ]
    return " · ".join(escaping.markdown(part) for part in parts if part)
