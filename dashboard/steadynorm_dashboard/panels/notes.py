"""Notes: a form, the notes of a run, and who deals with an incident."""

from __future__ import annotations

import time
from functools import partial

import streamlit as st

from steadynorm_contract.events import Event
from steadynorm_contract.incidents import IncidentState
from steadynorm_contract.notes import MAX_NAME_OF_HOLDER, MAX_NOTE_LENGTH, NewNote, Note, NoteAction, NoteList
from steadynorm_dashboard.components import inputs
from steadynorm_dashboard.components.data_table import data_table
from steadynorm_dashboard.components.live_region import live_region
from steadynorm_dashboard.data import queries, session
from steadynorm_dashboard.formatting import escaping, numbers, timeline
from steadynorm_dashboard.panels import messages, writes

_ALL = 2000
_NEAR_STEPS = 1000


def read(run_id: str) -> NoteList:
    """The run's notes; none where the server does not answer, or knows no notes."""
    found, _ = queries.fetch(f"{run_id}/notes", lambda client: client.notes(run_id, _ALL), share="newest")
    return found or NoteList(notes=[])


@st.fragment
def form(run_id: str) -> None:
    """A note on the run or one of its steps."""
    writes.collect(f"{run_id}/note/run/write")  # before the popover, which the answer closes
    with st.popover("Add a note", icon=":material/note_add:", key=f"{run_id}/note/run/open", on_change="rerun"):
        step = f"{run_id}/note/step"
        st.number_input("Step", value=None, min_value=0, step=1, placeholder="current step", key=step)
        _form(run_id, "run", None, step=step)


@st.fragment(run_every=3)
def tab(run_id: str) -> None:
    """All notes of a run."""
    notes = read(run_id).notes
    if not notes:
        st.caption("No notes yet. *Add a note* is beside the charts; a training loop writes one with `agent.note()`.")
        return
    rows = timeline.note_rows(notes, time.time(), st.context.timezone)
    links = [{"run": run_id, **({"incident": note.event} if note.event else {})} for note in notes]
    data_table(rows, key=f"{run_id}/notes/table", name="Notes", links=links, linked="incident")


@st.fragment(run_every=3)
def incident(run_id: str, event: Event) -> None:
    """Who deals with the incident, buttons to take, hand over and close it, and a form for a note on it."""
    for part in ("", "/take", "/hand_over", "/close"):
        writes.collect(f"{run_id}/note/{event.id}{part}/write")  # before the popovers, which the answers close
    status = next((each for each in read(run_id).incidents if each.event == event.id), None)
    locked = session.read_only()
    me = session.me()
    now, zone = time.time(), st.context.timezone
    taken = f"{status.state.value} by {status.by}" if status else "not taken"
    live_region(f"Incident at step {event.step:,}: {escaping.visible(taken, 100)}")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if status is None:
            st.markdown("**Nobody has taken this incident.**", width="content")
        else:
            words = f"**{status.state.value.capitalize()} by {escaping.markdown(status.by, 100)}**"
            st.markdown(f"{words} since {numbers.moment(status.time, now, zone)}", width="content")
        place = f"{run_id}/incident/{event.id}"
        if status is not None and status.state is IncidentState.TAKEN:
            with st.popover("Hand over", icon=":material/swap_horiz:", disabled=locked):
                st.text_input("To", key=f"{place}/to", max_chars=MAX_NAME_OF_HOLDER, placeholder="who takes over")
                _form(run_id, f"{event.id}/hand_over", event, NoteAction.HAND_OVER, to=f"{place}/to")
            with st.popover("Close", icon=":material/check_circle:", disabled=locked):
                _form(run_id, f"{event.id}/close", event, NoteAction.CLOSE)
        else:
            with st.popover("Take", icon=":material/front_hand:", disabled=locked):
                st.text_input(
                    "Your name", key=f"{place}/name", max_chars=MAX_NAME_OF_HOLDER, value=me.name if me else ""
                )
                _form(run_id, f"{event.id}/take", event, NoteAction.TAKE, to=f"{place}/name")
        with st.popover(
            "Add a note",
            icon=":material/note_add:",
            key=f"{run_id}/note/{event.id}/open",
            on_change="rerun",
            disabled=locked,
        ):
            _form(run_id, event.id, event)


def card(note: Note, now: float) -> None:
    """A note in the list of recent changes."""
    st.markdown(f":material/sticky_note_2: {escaping.markdown(timeline.said(note), 2200)}")
    when = numbers.moment(note.time, now, st.context.timezone)
    st.caption(f"{escaping.markdown(timeline.author(note), 60)} · {when} · step {note.step:,}")


def near(run_id: str, step: int, event: str | None = None) -> None:
    """Changes and notes about an incident, or within some steps of a step."""
    st.header("Who did what", anchor=False)
    audit, _ = queries.fetch(f"{run_id}/audit", lambda client: client.audit(run_id))
    found = timeline.deeds(audit.entries if audit else [], read(run_id).notes)
    shown = timeline.near(found, step, event, _NEAR_STEPS)
    if not shown:
        st.caption(f"No settings were changed and no note was written within {_NEAR_STEPS:,} steps.")
    now, zone = time.time(), st.context.timezone
    for deed in shown:
        away = timeline.distance(deed.step, step)
        who = f"**{escaping.markdown(deed.who, 60)}**" + (f" · {away}" if away else "")
        st.markdown(f"{numbers.moment(deed.time, now, zone)} · {who} · {escaping.markdown(deed.what, 2200)}")


_LABELS = {
    NoteAction.NOTE: "Save the note",
    NoteAction.TAKE: "Take the incident",
    NoteAction.HAND_OVER: "Hand the incident over",
    NoteAction.CLOSE: "Close the incident",
}


def _form(
    run_id: str,
    place: str,
    event: Event | None,
    action: NoteAction = NoteAction.NOTE,
    *,
    step: str | None = None,
    to: str | None = None,
) -> None:
    """step, to: keys of the inputs for them. Whoever calls this collects the write before it draws the popover."""
    key = f"{run_id}/note/{place}"
    locked = session.read_only()
    if locked:
        st.info(session.read_only_reason(), icon=":material/lock:")
    st.text_area(
        "Note",
        value=inputs.value(f"{key}/text", ""),
        key=inputs.key(f"{key}/text"),
        max_chars=MAX_NOTE_LENGTH,
        height=100,
        placeholder="for whoever looks next; stored in the audit list",
        disabled=locked,
    )
    st.button(
        _LABELS[action],
        key=f"{key}/send",
        type="primary",
        disabled=locked or writes.is_busy(f"{key}/write"),
        on_click=_send,
        args=(run_id, key, None if event is None else event.id, action, step, to),
    )
    writes.follow(f"{key}/write")
    if message := st.session_state.get(f"{key}/message"):
        st.warning(message)


def _send(run_id: str, key: str, event: str | None, action: NoteAction, step: str | None, to: str | None) -> None:
    """step, to: keys of the inputs, which are read now: arguments of a callback are those of the last drawing."""
    client = session.client()
    if client is None:
        return
    text = inputs.value(f"{key}/text") or ""
    at = st.session_state.get(step) if step else None
    name = (st.session_state.get(to) or "").strip() if to else ""
    if action is NoteAction.NOTE and not text.strip():
        st.session_state[f"{key}/message"] = "Write something first."
        return
    if action is NoteAction.HAND_OVER and not name:
        st.session_state[f"{key}/message"] = "Enter a name first."
        return
    new = NewNote(text=text, step=None if at is None else int(at), event=event, action=action, to=name)
    writes.start(f"{key}/write", lambda: client.add_note(run_id, new), partial(_sent, key))


def _sent(key: str, answer: object) -> None:
    message = messages.outcome(answer, "notes")
    if message is None and not isinstance(answer, Exception):
        inputs.put(f"{key}/text", "")
        if f"{key}/open" in st.session_state:
            st.session_state[f"{key}/open"] = False
    st.session_state[f"{key}/message"] = message  # shown until the next attempt
