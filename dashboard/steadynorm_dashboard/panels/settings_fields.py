"""The widgets of the settings panel, each with its error beneath.

Their values are in the session state under `{run_id}/{setting}`, see `components.inputs`; `settings` reads them there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from steadynorm_contract.changes import PRESETS
from steadynorm_contract.clipping import AUTO
from steadynorm_contract.knobs import Knob, KnobKind, is_allowed, is_knob
from steadynorm_contract.runs import RunDetail
from steadynorm_contract.settings import Mode, Transfer
from steadynorm_dashboard.components import inputs
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.panels.settings_draft import slider_stops, slider_value

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
        return is_allowed(name, self._run.allow)

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
        self._choice(
            "mode",
            Mode,
            "off: nothing is measured. observe: norms are measured, gradients are not modified. clip: measured, too, "
            "and where the total norm is above clip_norm all gradients are reduced alike. stabilize: gradients keep "
            "their direction, and their magnitude is replaced.",
        )

    def clip_norm(self) -> None:
        """The limit of mode `clip`: a number, or auto."""
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            automatic = st.toggle(
                "clip_norm auto",
                value=inputs.value(self._key("clip_norm/auto")),
                key=inputs.key(self._key("clip_norm/auto")),
                disabled=self._disabled("clip_norm"),
                help=self._help("Mode clip: a limit from recent total norms. Off: this total norm.", "clip_norm"),
                width="content",
            )
            st.number_input(
                "clip_norm",
                value=inputs.value(self._key("clip_norm")),
                key=inputs.key(self._key("clip_norm")),
                step=0.1,
                format="%.7g",
                label_visibility="collapsed",
                disabled=automatic or self._disabled("clip_norm"),
                width=_NUMBER_PX,
            )
        self._error("clip_norm")

    def presets(self) -> None:
        """A button for each preset; the one that the panel shows is disabled."""
        shown = {name: inputs.value(self._key(name)) for name in ("gamma1", "gamma2", "spike_limit", "spike_fade")}
        if not inputs.value(self._key("spike_limit/on")):
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
        linked = LinkedInputs.of(key)
        value, memory = st.columns([1.15, 1], gap="small", vertical_alignment="top")
        value.number_input(
            name,
            key=linked.number,
            value=linked.decay,
            step=0.001,
            format="%.7g",
            disabled=self._disabled(name),
            help=self._help(words + " 0 ≤ decay < 1.", name),
            on_change=_typed,
            args=(key, linked.number),
        )
        with memory.container(gap="xxsmall"):
            valid = linked.decay is not None and 0 <= linked.decay < 1
            st.caption(numbers.half_life(linked.decay) if linked.decay is not None and valid else numbers.MISSING)
            st.select_slider(
                f"{name} slider",
                slider_stops(linked.slider_initial),
                value=linked.slider_initial,
                key=linked.slider,
                format_func=numbers.setting,
                label_visibility="collapsed",
                disabled=self._disabled(name),
                on_change=_slid,
                args=(key, linked.slider),
            )
        self._error(name)

    def spike_limit(self) -> None:
        """A switch, and the ratio if it is on."""
        words = "Norms above this multiple of their RMS enter the statistics clipped. Off: as in the paper."
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            limited = st.toggle(
                "spike_limit",
                value=inputs.value(self._key("spike_limit/on")),
                key=inputs.key(self._key("spike_limit/on")),
                disabled=self._disabled("spike_limit"),
                help=self._help(words, "spike_limit"),
                width="content",
            )
            st.number_input(
                "spike_limit ratio",
                value=inputs.value(self._key("spike_limit")),
                key=inputs.key(self._key("spike_limit")),
                step=1.0,
                format="%.7g",
                label_visibility="collapsed",
                disabled=not limited or self._disabled("spike_limit"),
                width=_NUMBER_PX,
            )
            st.toggle(
                "spike_fade",
                value=inputs.value(self._key("spike_fade")),
                key=inputs.key(self._key("spike_fade")),
                disabled=not limited or self._disabled("spike_fade"),
                help=self._help(
                    "A step above the limit also counts less: at twice the limit a quarter, at ten times a hundredth. "
                    "A rise that lasts counts in full after some ten steps.",
                    "spike_fade",
                ),
                width="content",
            )
        self._error("spike_limit")
        self._error("spike_fade")

    def rest(self) -> None:
        """The settings that rarely change."""
        self._number(
            "lr_scale", 0.1, "Factor on every learning rate, 0 to 10. Learning rate schedulers are not affected."
        )
        if self._run.knobs is not None:
            self._switched(
                "lr",
                1e-4,
                "The first parameter group steps with this rate, the others in proportion; schedulers go on unseen. "
                "Off: the program's own rates.",
            )
            self._number("detail_every", 1, "Steps between two records of per-parameter rows, 1 to 1,000.")
        self._number("eps", 1e-12, "Added to the RMS norm before dividing by it, in the gradient's unit.")
        self._choice(
            "transfer",
            Transfer,
            "bumpless: the gradient's scale is preserved when the mode changes. plain: the rule as in the paper.",
        )
        self.clip_norm()

    def knobs(self, declared: Sequence[Knob]) -> None:
        """A slider over each knob's range, a number for any value, and a switch where it may be off."""
        for knob in declared:
            unit = f" ({knob.unit})" if knob.unit else ""
            words = escaping.markdown(f"{knob.sentence} {knob.low:g} to {knob.high:g}{unit}.".strip(), 400)
            if knob.own:
                self._switched(knob.setting, float(_step(knob)), words, slider=knob)
            else:
                self._number(knob.setting, float(_step(knob)), words, slider=knob)

    def _switched(self, name: str, step: float, words: str, slider: Knob | None = None) -> None:
        """A setting that may be off."""
        on = st.toggle(
            _label(name),
            value=inputs.value(self._key(f"{name}/on")),
            key=inputs.key(self._key(f"{name}/on")),
            disabled=self._disabled(name),
            help=self._help(words, name),
        )
        self._number(name, step, "", slider=slider, off=not on)

    def _slider(self, knob: Knob, off: bool) -> None:
        whole = int if knob.kind is KnobKind.INTEGER else float
        if max(abs(knob.low), abs(knob.high)) >= 2**53:
            return  # a browser's slider cannot
        key, now = self._key(f"{knob.setting}/slider"), inputs.value(self._key(knob.setting))
        inputs.put(key, whole(min(max(knob.default if now is None else now, knob.low), knob.high)))
        st.slider(
            f"{_label(knob.setting)} slider",
            whole(knob.low),
            whole(knob.high),
            value=inputs.value(key),
            step=whole(_step(knob)),
            key=inputs.key(key),
            format="%.6g" if whole is float else "%d",
            label_visibility="collapsed",
            disabled=off or self._disabled(knob.setting),
            on_change=_moved,
            args=(key, self._key(knob.setting)),
        )

    def _choice(self, name: str, of: type[Mode | Transfer], words: str) -> None:
        st.segmented_control(
            name,
            [one.value for one in of],
            default=inputs.value(self._key(name)),
            key=inputs.key(self._key(name)),
            required=True,
            disabled=self._disabled(name),
            help=self._help(words, name),
        )
        self._error(name)

    def _number(self, name: str, step: float, words: str, *, slider: Knob | None = None, off: bool = False) -> None:
        st.number_input(
            _label(name),
            value=inputs.value(self._key(name)),
            key=inputs.key(self._key(name)),
            step=step,
            format="%.7g" if isinstance(step, float) else "%d",
            disabled=off or self._disabled(name),
            help=self._help(words, name) if words else None,
        )
        if slider is not None:
            self._slider(slider, off)
        self._error(name)


def _label(name: str) -> str:
    return escaping.label(name) if is_knob(name) else name


def _step(knob: Knob) -> float:
    """Of a slider: a hundredth of the range."""
    step = (knob.high - knob.low) / 100
    return max(1, round(step)) if knob.kind is KnobKind.INTEGER else step


def _moved(slider: str, name: str) -> None:
    inputs.put(name, float(inputs.value(slider)))


@dataclass(slots=True)
class LinkedInputs:
    """The number input and the slider of one decay: two widgets for one value, as in `components.inputs`.

    When one is used, the other is replaced by a new widget with another key, and late values of the old one are
    ignored. The one in use keeps the focus.
    """

    key: str
    decay: float | None
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
        linked: LinkedInputs | None = st.session_state.get(f"{key}/inputs")
        if linked is None:
            linked = cls(key, decay, slider_value(decay))
        elif linked.decay != decay:
            linked = cls(key, decay, slider_value(decay), linked.numbers + 1, linked.sliders + 1)
        elif linked.slider not in st.session_state:  # the page was left meanwhile
            linked.slider_initial = slider_value(decay)
        st.session_state[f"{key}/inputs"] = linked
        return linked


def put(run_id: str, name: str, value: object, otherwise: float | None = None) -> None:
    """Show this value of a setting in the panel. otherwise: with a switch, the value when it is switched on."""
    if otherwise is not None:
        inputs.put(f"{run_id}/{name}/on", value is not None)
        value = inputs.value(f"{run_id}/{name}", otherwise) if value is None else value
    if name == "spike_limit":
        inputs.put(f"{run_id}/spike_limit/on", value is not None)
        value = _DEFAULT_SPIKE_LIMIT if value is None else value
    if name == "clip_norm":
        inputs.put(f"{run_id}/clip_norm/auto", value == AUTO)
        value = 1.0 if value == AUTO else value
    inputs.put(f"{run_id}/{name}", value.value if isinstance(value, Mode | Transfer) else value)


def _fill(run_id: str, settings: Mapping[str, object]) -> None:
    for name, value in settings.items():
        put(run_id, name, value)


def _typed(key: str, number: str) -> None:
    linked: LinkedInputs = st.session_state[f"{key}/inputs"]
    if number == linked.number:
        linked.decay = st.session_state[key] = st.session_state[number]
        linked.sliders, linked.slider_initial = linked.sliders + 1, slider_value(linked.decay)


def _slid(key: str, slider: str) -> None:
    linked: LinkedInputs = st.session_state[f"{key}/inputs"]
    if slider == linked.slider:
        linked.decay = st.session_state[key] = st.session_state[slider]
        linked.numbers += 1
