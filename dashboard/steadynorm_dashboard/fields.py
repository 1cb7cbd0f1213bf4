"""The widgets of the settings panel, each with its error beneath.

They live in the session state under `{run_id}/{setting}`; `controls` fills and reads them there.
"""

from __future__ import annotations

import math

import streamlit as st

from steadynorm_contract.settings import Mode, Transfer
from steadynorm_contract.views import RunDetail
from steadynorm_dashboard import text, units
from steadynorm_dashboard.draft import DECAYS, nearest_stop

__all__ = ["Fields"]

_NUMBER_PX = 140
"""A narrower number has no stepper."""


class Fields:
    """The widgets of one run's panel, each with its error beneath."""

    def __init__(self, run: RunDetail, errors: dict[str, str], locked: bool) -> None:
        self._run, self._errors, self._locked = run, errors, locked

    def allowed(self, name: str) -> bool:
        """Whether the job follows changes of `name`."""
        return self._run.allow is None or name in self._run.allow

    def _disabled(self, name: str) -> bool:
        return self._locked or not self.allowed(name)

    def _key(self, name: str) -> str:
        return f"{self._run.run_id}/{name}"

    def _help(self, words: str, name: str) -> str:
        return words if self.allowed(name) else f"{words} The job's owner did not allow changing it."

    def _error(self, name: str) -> None:
        if name in self._errors:
            st.error(text.markdown(self._errors[name], 400))

    def mode(self) -> None:
        """What the stabilizer does."""
        st.segmented_control(
            "mode",
            [mode.value for mode in Mode],
            key=self._key("mode"),
            required=True,
            disabled=self._disabled("mode"),
            help=self._help(
                "off: nothing is measured. observe: measured, gradients untouched. stabilize: the gradient keeps its "
                "direction, its magnitude is replaced.",
                "mode",
            ),
        )
        self._error("mode")

    def decay(self, name: str, words: str) -> None:
        """gamma1 or gamma2: a number that takes any value, its half-life, and a slider over sensible ones."""
        value, memory = st.columns([1.15, 1], gap="small", vertical_alignment="top")
        with value:
            typed = st.number_input(
                name,
                key=self._key(name),
                step=0.001,
                format="%.7g",
                disabled=self._disabled(name),
                help=self._help(words + " 0 ≤ decay < 1.", name),
            )
        valid = typed is not None and 0 <= typed < 1
        with memory.container(gap="xxsmall"):
            st.caption(units.half_life(typed) if typed is not None and valid else units.MISSING)
            self._slider(name, typed)
        self._error(name)

    def _slider(self, name: str, typed: float | None) -> None:
        """A hand on the number. It stands at the nearest of its stops, which never change.

        The browser sends every widget's value with each request, also one from before the newest answer came. Were
        the slider told where to stand, such a late value would look like a move of it and overwrite what is typed.
        So nobody tells it: after each edit of the number there is another slider, which begins at the right stop, and
        a value that differs from its own first one is an operator's move.
        """
        number, place = self._key(name), self._key(f"{name}/slider")
        edits, begin, stands_for = st.session_state.get(f"{place}/at", (-1, 0.0, math.nan))
        if stands_for != typed:
            edits, begin = edits + 1, nearest_stop(typed)
            st.session_state[f"{place}/at"] = (edits, begin, typed)
        slider = f"{place}/{edits}"
        st.select_slider(
            f"{name} slider",
            DECAYS,
            value=begin,
            key=slider,
            format_func=units.setting,
            label_visibility="collapsed",
            disabled=self._disabled(name),
            on_change=_slide,
            args=(slider, number, place),
        )

    def spike_limit(self) -> None:
        """A switch, and the ratio where it is on."""
        words = "Norms above this multiple of their RMS enter the statistics clipped. Off is the paper's rule."
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            limited = st.toggle(
                "spike_limit",
                key=self._key("spike_limit/on"),
                disabled=self._disabled("spike_limit"),
                help=self._help(words, "spike_limit"),
                width="content",
            )
            st.number_input(
                "spike_limit ratio",
                key=self._key("spike_limit"),
                step=1.0,
                format="%.7g",
                label_visibility="collapsed",
                disabled=not limited or self._disabled("spike_limit"),
                width=_NUMBER_PX,
            )
        self._error("spike_limit")

    def rest(self) -> None:
        """The settings that are rarely changed."""
        st.number_input(
            "lr_scale",
            key=self._key("lr_scale"),
            step=0.1,
            format="%.7g",
            disabled=self._disabled("lr_scale"),
            help=self._help("Factor on every learning rate, 0 to 10. Schedulers never notice.", "lr_scale"),
        )
        self._error("lr_scale")
        st.number_input(
            "eps",
            key=self._key("eps"),
            step=1e-12,
            format="%.7g",
            disabled=self._disabled("eps"),
            help=self._help("Added to the RMS norm before dividing by it, in the gradient's unit.", "eps"),
        )
        self._error("eps")
        st.segmented_control(
            "transfer",
            [transfer.value for transfer in Transfer],
            key=self._key("transfer"),
            required=True,
            disabled=self._disabled("transfer"),
            help=self._help(
                "bumpless: a switch of mode carries the gradient's scale over. plain: the paper's bare rule.",
                "transfer",
            ),
        )
        self._error("transfer")


def _slide(slider: str, number: str, place: str) -> None:
    edits, begin, _ = st.session_state[f"{place}/at"]
    if slider != f"{place}/{edits}":
        return  # of a slider that an edit of the number has replaced
    st.session_state[number] = st.session_state[slider]
    st.session_state[f"{place}/at"] = (edits, begin, st.session_state[slider])
