"""Rename, archive, delete and restore runs: one form for all of them, what came of it, and the way back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

import streamlit as st

from steadynorm_contract.client import Client, ClientError, OutcomeUnknown
from steadynorm_contract.lifecycle import DEFAULT_GRACE_S, TRAINS_ON, RunUpdate
from steadynorm_contract.runs import RunSummary
from steadynorm_contract.telemetry import MAX_NAME_LENGTH
from steadynorm_dashboard.components import inputs
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.panels import run_actions, writes

ARCHIVE, UNARCHIVE, RENAME, DELETE, RESTORE = "archive", "unarchive", "rename", "delete", "restore"
_PENDING = "lifecycle/pending"  # (action, names by run id): its form is open
_DONE = "lifecycle/done"
_WRITE = "lifecycle/write"
_SETTLE_S = 20.0

_GRACE = numbers.duration(DEFAULT_GRACE_S)
_EXPLAINED = {
    ARCHIVE: "They are hidden from lists and kept, until they are listed again or their agent is heard from.",
    UNARCHIVE: "They are listed again.",
    RENAME: "The run's id stays, and so do the agent's own name and what tokens may do with the run.",
    DELETE: f"They are hidden now and removed with all their data in {_GRACE}. Until then they can be restored.",
    RESTORE: "They are listed again, with all their data.",
}
_VERBS = {
    ARCHIVE: ("Archive", "archived"),
    UNARCHIVE: ("Unarchive", "unarchived"),
    RENAME: ("Rename", "renamed"),
    DELETE: ("Delete", "deleted"),
    RESTORE: ("Restore", "restored"),
}
_BACK = {ARCHIVE: UNARCHIVE, UNARCHIVE: ARCHIVE, DELETE: RESTORE}


@dataclass(frozen=True, slots=True)
class _Done:
    """made, refused: names by run id, and why; before: the former names of what was renamed."""

    action: str
    made: dict[str, str]
    refused: dict[str, str]
    before: dict[str, str]
    id: str = field(default_factory=lambda: uuid4().hex)


def ask(action: str, names: Mapping[str, str]) -> None:
    """Open the form of an action. names: of the runs, by id."""
    if action in _VERBS and names and not session.read_only():
        st.session_state[_PENDING] = (action, dict(names))
        st.session_state.pop(_DONE, None)


def panel(of: str | None = None) -> None:
    """The form if an action was asked for, and what came of the last one.

    of: a run's id: only what is about that run alone.
    """
    writes.collect(_WRITE)
    pending: tuple[str, dict[str, str]] | None = st.session_state.get(_PENDING)
    if pending is not None and (of is None or list(pending[1]) == [of]):
        _form(*pending)
    if writes.is_busy(_WRITE):
        st.caption(":material/progress_activity: Sending…")
    done: _Done | None = st.session_state.get(_DONE)
    if done is not None and (of is None or list(done.before) == [of]):
        _outcome(done)


def done() -> tuple[str, list[str]]:
    """Which runs the last action was done to, without those that were refused it; before them an id of this outcome."""
    held: _Done | None = st.session_state.get(_DONE)
    return (held.id, list(held.made)) if held is not None else ("", [])


def banner(run: RunSummary) -> None:
    """On a run's page: that it is hidden and how to list it again, and the form."""
    if run.deletes_at is not None or run.archived is not None:
        action = ARCHIVE if run.deletes_at is None else DELETE
        words = "was archived: it is hidden from lists and kept."
        if action == DELETE:
            words = (
                f"was deleted, and is removed in {numbers.duration(max(0.0, (run.deletes_at or 0.0) - time.time()))}."
            )
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f":gray-badge[:material/inventory_2: This run {words}]", width="content")
            _button(_BACK[action], {run.run_id: run.name}, "banner")
    panel(run.run_id)


def menu(run: RunSummary) -> None:
    """Buttons for one run."""
    live = run.state.is_live and run.connected
    refusal = f"The run is live: stop it first. {TRAINS_ON}." if live else None
    with st.container(horizontal=True, gap="xsmall"):
        clicked = [
            _button(action, {run.run_id: run.name}, "menu", None if action == RENAME else refusal)
            for action in (RENAME, ARCHIVE, DELETE)
        ]
    if any(clicked):
        st.rerun()  # the form is in another part of the page


def _button(action: str, names: dict[str, str], place: str, refusal: str | None = None) -> bool:
    return st.button(
        _VERBS[action][0],
        key=f"lifecycle/{place}/{action}",
        on_click=ask,
        args=(action, names),
        disabled=refusal is not None or session.read_only(),
        help=refusal or (session.read_only_reason() if session.read_only() else _EXPLAINED[action]),
        type="tertiary",
    )


def _name_key(run_id: str) -> str:
    return f"lifecycle/name/{run_id}"


def _reason_key(action: str, names: Iterable[str]) -> str:
    return f"lifecycle/reason/{action}/{','.join(names)}"


def _form(action: str, names: dict[str, str]) -> None:
    verb = _VERBS[action][0]
    shown = ", ".join(escaping.markdown(name, 60) for name in list(names.values())[:6])
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    with st.container(border=True, gap="small", key="steadynorm-lifecycle"):
        st.markdown(f"**{verb} {shown}{more}?** {_EXPLAINED[action]}")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            if action == RENAME:
                ((run_id, name),) = names.items()
                st.text_input("New name", name, key=_name_key(run_id), max_chars=MAX_NAME_LENGTH, width=280)
            run_actions.reason(_reason_key(action, names), disabled=False)
            st.button(
                f"{verb} now",
                key="lifecycle/now",
                type="primary",
                disabled=writes.is_busy(_WRITE),
                on_click=_confirmed,
                args=(action, names),
            )
            st.button("Cancel", key="lifecycle/cancel", on_click=_cancel)


def _cancel() -> None:
    st.session_state.pop(_PENDING, None)


def _confirmed(action: str, names: dict[str, str]) -> None:
    reason = inputs.value(_reason_key(action, names)) or ""
    inputs.put(_reason_key(action, names), "")
    name = (st.session_state.get(_name_key(next(iter(names)))) or "") if action == RENAME else ""
    st.session_state.pop(_PENDING, None)
    if action == RENAME and name in ("", *names.values()):
        return
    _start(action, names, reason, dict.fromkeys(names, name))


def _start(action: str, names: dict[str, str], reason: str, titles: Mapping[str, str]) -> None:
    client = session.client()
    if client is not None:
        st.session_state.pop(_DONE, None)
        writes.start(_WRITE, partial(_run, client, action, names, reason, titles), partial(_finish, action, names))


def _run(client: Client, action: str, names: dict[str, str], reason: str, titles: Mapping[str, str]) -> _Done:
    """Act on each run. Without the session state: it runs in a thread."""
    made: dict[str, str] = {}
    refused: dict[str, str] = {}
    for run_id, name in names.items():
        write = _write(client, action, run_id, reason, titles.get(run_id, ""))
        try:
            write()
        except OutcomeUnknown as unknown:
            found = unknown.settle(_SETTLE_S)
            if found is None or not found.made:
                refused[run_id] = str(unknown) if found is None else found.text
                continue
        except ClientError as error:
            refused[run_id] = str(error)
            continue
        made[run_id] = titles[run_id] if action == RENAME else name
    return _Done(action, made, refused, names)


def _write(client: Client, action: str, run_id: str, reason: str, title: str) -> Callable[[], object]:
    match action:
        case "delete":
            return partial(client.delete, run_id, grace_s=DEFAULT_GRACE_S, reason=reason)
        case "restore":
            return partial(client.restore, run_id, reason=reason)
        case "rename":
            return partial(client.update, run_id, RunUpdate(name=title, reason=reason))
        case _:
            return partial(client.update, run_id, RunUpdate(archived=action == ARCHIVE, reason=reason))


def _finish(action: str, names: dict[str, str], answer: object) -> None:
    if not isinstance(answer, _Done):
        answer = _Done(action, {}, dict.fromkeys(names, f"the outcome is unknown ({answer!r})"), names)
    st.session_state[_DONE] = answer


def _outcome(done: _Done) -> None:
    names: Sequence[str] = list(done.made.values())
    with st.container(horizontal=True, vertical_alignment="center"):
        if names:
            what = escaping.markdown(names[0], 60) if len(names) == 1 else f"{len(names):,} runs"
            st.markdown(f":blue-badge[:material/check: {what} {_VERBS[done.action][1]}]", width="content")
            if done.action == RENAME or done.action in _BACK:
                st.button(
                    "Undo",
                    key="lifecycle/undo",
                    on_click=_undo,
                    args=(done,),
                    type="tertiary",
                    disabled=writes.is_busy(_WRITE),
                )
        st.button("Dismiss", key="lifecycle/dismiss", on_click=_dismiss, type="tertiary")
    for run_id, why in list(done.refused.items())[:5]:
        st.error(f"{escaping.markdown(done.before.get(run_id, run_id), 60)}: {escaping.markdown(why, 400)}")
    if len(done.refused) > 5:
        st.error(
            f"{len(done.refused) - 5:,} more runs were refused, or their outcome is unknown: check them in the list."
        )


def _undo(done: _Done) -> None:
    if done.action == RENAME:
        _start(RENAME, done.made, "undone", done.before)
    else:
        _start(_BACK[done.action], done.made, "undone", {})


def _dismiss() -> None:
    st.session_state.pop(_DONE, None)
