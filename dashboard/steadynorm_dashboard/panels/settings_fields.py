"""The widgets of the settings panel, each with its error beneath.

Their values are in the session state under `{run_id}/{setting}`; `settings` reads and writes them there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from steadynorm_contract.changes import PRESETS
from steadynorm_contract.runs import RunDetail
from steadynorm_contract.settings import Mode, Transfer
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.panels.settings_draft import DECAYS, nearest_stop

_DEFAULT_SPIKE_LIMIT = PRESETS["robust"]["spike_limit"]
"""The value when the switch is turned on for the first time."""

_NUMBER_PX = 140
"""Narrower number inputs have no stepper."""


class Fields:
    """The widgets of one run's panel, each with its error beneath."""

    def __init__(self, run: RunDetail, errors: dict[str, str], locked: bool) -> None:
        self._run, self._errors, self._locked = run, errors, locked

    def allowed(self, name: str) -> bool:
        """Whether the job allows changes of `name`."""
        return self._run.allow is None or name in self._run.allow

    def _disabled(self, name: str) -> bool:
        return self._locked or not self.allowed(name)

    def _key(self, name: str) -> str:
        return f"{self._run.run_id}/{name}"

    def _help(self, words: str, name: str) -> str:
        return words if self.allowed(name) else f"{words} The training job does not allow changing it."

    def _error(self, name: str) -> None:
        if name in self._errors:
            st.error(escaping.markdown(self._errors[name], 400))

    def mode(self) -> None:
        """The stabilizer's mode."""
        st.segmented_control(
            "mode",
            [mode.value for mode in Mode],
            key=self._key("mode"),
            required=True,
            disabled=self._disabled("mode"),
            help=self._help(
                "off: nothing is measured. observe: norms are measured, gradients are not modified. stabilize: "
                "gradients keep their direction, and their magnitude is replaced.",
                "mode",
            ),
        )
        self._error("mode")

    def presets(self) -> None:
        """A button for each preset; the one that the panel shows is disabled."""
        shown = {name: st.session_state[self._key(name)] for name in ("gamma1", "gamma2", "spike_limit")}
        if not st.session_state[self._key("spike_limit/on")]:
            shown["spike_limit"] = None
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(":small[preset]", help="Named settings: a click fills them in. Nothing is sent before Apply.")
            for preset, settings in PRESETS.items():
                st.button(
                    preset,
                    key=self._key(f"preset/{preset}"),
                    help=", ".join(f"{name} {numbers.setting(value)}" for name, value in settings.items()),
                    disabled=shown == settings or any(self._disabled(name) for name in settings),
                    on_click=_fill,
                    args=(self._run.run_id, settings),
                )

    def decay(self, name: str, words: str) -> None:
        """gamma1 or gamma2: a number input for any value, its half-life, and a slider over useful values."""
        key = self._key(name)
        inputs = LinkedInputs.of(key)
        value, memory = st.columns([1.15, 1], gap="small", vertical_alignment="top")
        value.number_input(
            name,
            key=inputs.number,
            value=inputs.number_initial,
            step=0.001,
            format="%.7g",
            disabled=self._disabled(name),
            help=self._help(words + " 0 ≤ decay < 1.", name),
            on_change=_typed,
            args=(key, inputs.number),
        )
        with memory.container(gap="xxsmall"):
            valid = inputs.decay is not None and 0 <= inputs.decay < 1
            st.caption(numbers.half_life(inputs.decay) if inputs.decay is not None and valid else numbers.MISSING)
            st.select_slider(
                f"{name} slider",
                DECAYS,
                value=inputs.slider_initial,
                key=inputs.slider,
                format_func=numbers.setting,
                label_visibility="collapsed",
                disabled=self._disabled(name),
                on_change=_slid,
                args=(key, inputs.slider),
            )
        self._error(name)

    def spike_limit(self) -> None:
        """A switch, and the ratio if it is on."""
        words = "Norms above this multiple of their RMS enter the statistics clipped. Off: as in the paper."
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
        """The settings that rarely change."""
        st.number_input(
            "lr_scale",
            key=self._key("lr_scale"),
            step=0.1,
            format="%.7g",
            disabled=self._disabled("lr_scale"),
            help=self._help(
                "Factor on every learning rate, 0 to 10. Learning rate schedulers are not affected.", "lr_scale"
            ),
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
                "bumpless: the gradient's scale is preserved when the mode changes. plain: the rule as in the paper.",
                "transfer",
            ),
        )
        self._error("transfer")


@dataclass(slots=True)
class LinkedInputs:
    """The number input and the slider of one decay: two widgets for one value.

    The browser sends the values of all widgets with each request, also those from before the newest response. If the
    value of one widget were set when the other is used, such a late value would look like a new input and overwrite the
    other's. So no widget's value is ever set: when one is used, the other is replaced by a new widget with another key
    and the right initial value, and late values of the old one are ignored. The one in use keeps the focus.
    """

    key: str
    decay: float | None
    number_initial: float | None
    slider_initial: float
    numbers: int = 0
    sliders: int = 0

    @property
    def number(self) -> str:
        """The key of the current number input."""
        return f"{self.key}/number/{self.numbers}"

    @property
    def slider(self) -> str:
        """The key of the current slider."""
        return f"{self.key}/slider/{self.sliders}"

    @classmethod
    def of(cls, key: str) -> LinkedInputs:
        """The widgets of the value under `key`; new ones if another part of the panel has set it."""
        decay: float | None = st.session_state[key]
        inputs: LinkedInputs | None = st.session_state.get(f"{key}/inputs")
        if inputs is None:
            inputs = cls(key, decay, decay, nearest_stop(decay))
        elif inputs.decay != decay:
            inputs = cls(key, decay, decay, nearest_stop(decay), inputs.numbers + 1, inputs.sliders + 1)
        st.session_state[f"{key}/inputs"] = inputs
        return inputs


def put(run_id: str, name: str, value: object) -> None:
    """Show this value of a setting in the panel."""
    if name == "spike_limit":
        st.session_state[f"{run_id}/spike_limit/on"] = value is not None
        value = _DEFAULT_SPIKE_LIMIT if value is None else value
    st.session_state[f"{run_id}/{name}"] = value.value if isinstance(value, Mode | Transfer) else value


def _fill(run_id: str, settings: Mapping[str, object]) -> None:
    for name, value in settings.items():
        put(run_id, name, value)


def _typed(key: str, number: str) -> None:
    inputs: LinkedInputs = st.session_state[f"{key}/inputs"]
    if number == inputs.number:
        inputs.decay = st.session_state[key] = st.session_state[number]
        inputs.sliders, inputs.slider_initial = inputs.sliders + 1, nearest_stop(inputs.decay)


def _slid(key: str, slider: str) -> None:
    inputs: LinkedInputs = st.session_state[f"{key}/inputs"]
    if slider == inputs.slider:
        inputs.decay = st.session_state[key] = st.session_state[slider]
        inputs.numbers, inputs.number_initial = inputs.numbers + 1, inputs.decay
