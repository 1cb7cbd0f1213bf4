"""A run's settings: what can be changed while it trains, and within which limits.

    Settings()                                  the paper's rule with its defaults
    Settings(gamma2=0.99, mode="observe")       validated at once; SettingsError says which field and why
    merge(settings, {"gamma2": 0.99})           a change as an operator sends it: only what changes
    merge(settings, {"preset": "robust"})       several settings by the name of a preset, see `changes`

The server validates every change and the agent validates it again, both with this module, so an invalid value reaches
neither Redis nor the optimizer.
"""

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

import msgspec

from steadynorm_contract import setting_checks as checks
from steadynorm_contract.changes import PRESETS, expand
from steadynorm_contract.knobs import KNOB_PREFIX, MAX_KNOBS, Knob, is_knob, knob_name_problem, near_names

__all__ = [
    "COUNTERS",
    "LATER_SETTINGS",
    "SETTING_RULES",
    "FieldError",
    "Mode",
    "RecoveryMode",
    "Settings",
    "SettingsError",
    "Transfer",
    "by_name",
    "is_increment",
    "keeps_spikes_out",
    "later_settings",
    "merge",
    "resolve_increments",
    "with_knobs",
    "without_later",
]

_T = TypeVar("_T")

_ROBUST_LIMIT = cast("float", PRESETS["robust"]["spike_limit"])


class Mode(enum.StrEnum):
    """What the stabilizer does with a gradient."""

    OFF = "off"
    """Nothing is measured; the gradient is multiplied by the gain of the last mode change (1 if there was none)."""
    OBSERVE = "observe"
    """Norms are measured and recorded; the gradient passes as in `off`."""
    CLIP = "clip"
    """Measured as in `observe`; where the total norm is above `clip_norm`, all gradients are reduced alike."""
    STABILIZE = "stabilize"
    """The gradient keeps its direction; its magnitude is replaced."""


class Transfer(enum.StrEnum):
    """What happens to the gradient's scale when the mode is switched."""

    BUMPLESS = "bumpless"
    """The output scale is carried over, so the update size does not jump."""
    PLAIN = "plain"
    """The paper's bare rule: unit and gain stay 1."""


class RecoveryMode(enum.StrEnum):
    """What the agent does when a detector finds the run broken."""

    OFF = "off"
    """Nothing, and it keeps no snapshots."""
    ADVISE = "advise"
    """It tells what it would do."""
    ACT = "act"
    """All ranks go back to the newest good snapshot and go on with the data that comes next."""


class FieldError(msgspec.Struct, frozen=True):
    """One invalid setting."""

    field: str
    rule: str
    message: str


class SettingsError(ValueError):
    """One or more settings are invalid. `errors` names each field, its rule and what to do."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__(" ".join(error.message for error in errors))
        self.errors = errors


SETTING_RULES: dict[str, tuple[str, Callable[[object], str | None]]] = {
    "mode": ("must be off, observe, clip or stabilize", checks.choice(Mode)),
    "gamma1": ("must be in [0, 1)", checks.decay),
    "gamma2": ("must be in [0, 1)", checks.decay),
    "eps": ("must be in (0, 0.001]", checks.eps),
    "spike_limit": ("must be off or greater than 1", checks.spike_limit),
    "spike_fade": ("must be true or false", checks.boolean),
    "transfer": ("must be bumpless or plain", checks.choice(Transfer)),
    "clip_norm": ("must be auto or greater than 0", checks.clip_norm),
    "lr_scale": ("must be in [0, 10]", checks.lr_scale),
    "lr": ("must be off or in [0, 1000000]", checks.lr),
    "paused": ("must be true or false", checks.boolean),
    "stop": ("must be true or false", checks.boolean),
    "reset_generation": ("must be a whole number that only grows", checks.counter),
    "checkpoint_generation": ("must be a whole number that only grows", checks.counter),
    "recovery": ("must be off, advise or act", checks.choice(RecoveryMode)),
    "rollback_generation": ("must be a whole number that only grows", checks.counter),
    "rollback_to": ("must be off or a step", checks.step),
    "detail_every": ("must be a whole number of steps from 1 to 1000", checks.detail_every),
}
"""Per setting: its rule in words, and a check that returns None or what to do instead."""

COUNTERS = ("reset_generation", "checkpoint_generation", "rollback_generation")
"""Settings that count actions. Raising one runs its action once, and none is ever lowered."""

LATER_SETTINGS = ("lr", "detail_every", "knobs")
"""Fields of `Settings` that agents and servers of before do not read. At their defaults they are left out of what is
written; what is sent to one of those has none, see `without_later`."""

DETAIL_EVERY = 10
"""The default of `detail_every`."""

MAX_ERRORS = 32
"""Invalid settings that one error names."""

_INCREMENT = re.compile(r"\+[0-9]{1,9}")


def _problem(field: str, value: object) -> FieldError | None:
    rule, check = SETTING_RULES[field]
    advice = check(value)
    if advice is None:
        return None
    return FieldError(field, rule, f"{field} {rule}: got {checks.shown(value)}. {advice}")


def _always(value: _T) -> _T:
    """A default that is written, unlike those of LATER_SETTINGS: msgspec leaves out plain defaults only."""
    default: _T = msgspec.field(default_factory=lambda: value)
    return default


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """All settings of a run, validated on construction. The defaults are the paper's rule; `attach()` has its own.

    Attributes:
        mode: `off`, `observe`, `clip` or `stabilize`, see `Mode`.
        gamma1: Decay per step of the moving average of the norm, in [0, 1).
        gamma2: Decay per step of the moving average of the squared norm, in [0, 1).
        eps: Added to the RMS norm before dividing by it, in the unit of the gradient; in (0, 1e-3].
        spike_limit: A norm above this multiple of the RMS norm enters the statistics clipped to it; above 1.
            None: never.
        spike_fade: Whether the steps above spike_limit also count less, by the square of how far they are above it.
            Without a spike_limit it does nothing.
        transfer: What happens to the gradient's scale when the mode changes, see `Transfer`.
        clip_norm: In mode `clip`, the largest total norm of all gradients, over 0; or `auto`: ZClip's limit, which
            follows recent total norms.
        lr_scale: Factor on every parameter group's learning rate during a step, in [0, 10].
        lr: Learning rate of the first parameter group while a step runs, in place of the program's; the other groups
            follow in proportion. None: the program's.
        paused: Whether the run waits at the next step boundary.
        stop: Whether the training loop is asked to end (`agent.should_stop`).
        reset_generation: Counter: raising it resets the statistics once.
        checkpoint_generation: Counter: raising it requests one checkpoint.
        recovery: What happens when a detector finds the run broken, see `RecoveryMode`. Needs `attach(recovery=...)`.
        rollback_generation: Counter: raising it rolls the run back once.
        rollback_to: The step of the snapshot that `rollback_generation` goes back to. None: the newest good one.
        detail_every: Steps between two records of per-parameter rows, from 1 to 1,000.
        knobs: Values of the loop's own knobs, by name without `knob.`. None: an optimizer's option is as
            the program has it.

    Raises:
        SettingsError: A value is invalid.
    """

    mode: Mode = _always(Mode.STABILIZE)
    gamma1: float = _always(0.6)
    gamma2: float = _always(0.999)
    eps: float = _always(1e-12)
    spike_limit: float | None = _always(None)
    spike_fade: bool = _always(False)
    transfer: Transfer = _always(Transfer.BUMPLESS)
    clip_norm: float | str = _always(1.0)
    lr_scale: float = _always(1.0)
    lr: float | None = None
    paused: bool = _always(False)
    stop: bool = _always(False)
    reset_generation: int = _always(0)
    checkpoint_generation: int = _always(0)
    recovery: RecoveryMode = _always(RecoveryMode.OFF)
    rollback_generation: int = _always(0)
    rollback_to: int | None = _always(None)
    detail_every: int = DETAIL_EVERY
    knobs: dict[str, float | None] = {}

    def __post_init__(self) -> None:
        errors = [error for name in SETTING_RULES if (error := _problem(name, getattr(self, name))) is not None]
        if self.knobs:
            errors += _knob_errors(self.knobs)
        if errors:
            raise SettingsError(errors)
        # `Settings(mode="observe")` is what people write; the fields hold the enumeration's members.
        msgspec.structs.force_setattr(self, "mode", Mode(self.mode))
        msgspec.structs.force_setattr(self, "transfer", Transfer(self.transfer))
        msgspec.structs.force_setattr(self, "recovery", RecoveryMode(self.recovery))
        if self.knobs:  # equal settings are the same bytes
            sorted_ = {name: None if value is None else float(value) for name, value in sorted(self.knobs.items())}
            msgspec.structs.force_setattr(self, "knobs", sorted_)


def by_name(settings: Settings) -> dict[str, object]:
    """All settings as plain values, each knob under its name `knob.NAME`: what changes and the audit list name."""
    named: dict[str, object] = {}
    for name in SETTING_RULES:
        value = getattr(settings, name)
        named[name] = value.value if isinstance(value, enum.Enum) else value
    return named | {KNOB_PREFIX + name: value for name, value in settings.knobs.items()}


def keeps_spikes_out(settings: Settings) -> bool:
    """Whether the limit is that of the preset `robust` or lower, with which a spike hardly enters the statistics."""
    return settings.spike_limit is not None and settings.spike_limit <= _ROBUST_LIMIT


def without_later(settings: Settings) -> Settings:
    """`settings` as agents and servers of before read them."""
    return msgspec.structs.replace(settings, lr=None, detail_every=DETAIL_EVERY, knobs={})


def later_settings(settings: Settings) -> dict[str, object]:
    """What `without_later` leaves out, by name."""
    return {name: value for name, value in by_name(settings).items() if is_knob(name) or name in LATER_SETTINGS}


def with_knobs(
    settings: Settings, knobs: Sequence[Knob], present: Mapping[str, float | None] | None = None
) -> Settings:
    """`settings` with a value for each of these knobs and for no other: a run may go on with a program of others.

    Args:
        settings: Any, of this run or of an earlier process of it.
        knobs: Those that the present process declares.
        present: Values of those that `settings` lacks, or has a value for that is no longer in their range.
    """
    if not knobs and not settings.knobs:
        return settings
    values: dict[str, float | None] = {}
    for knob in knobs:
        given = [known[knob.name] for known in (settings.knobs, present or {}) if knob.name in known]
        values[knob.name] = next(filter(knob.accepts, given), knob.initial)
    return settings if values == settings.knobs else msgspec.structs.replace(settings, knobs=values)


def _knob_errors(knobs: Mapping[str, object]) -> list[FieldError]:
    """Of values whose knobs are not known here: names, numbers, and how many."""
    errors = []
    for name, value in knobs.items():
        field = f"{KNOB_PREFIX}{name}"[:100] if isinstance(name, str) else KNOB_PREFIX
        if (problem := knob_name_problem(name)) is not None:
            errors.append(FieldError(field, "must have a valid name", problem))
        elif value is not None and checks.number(value) is None:
            rule = "must be a finite number or off"
            errors.append(FieldError(field, rule, f"{field} {rule}: got {checks.shown(value)}."))
    if len(knobs) > MAX_KNOBS:
        rule = f"must be at most {MAX_KNOBS}"
        errors.append(FieldError("knobs", rule, f"knobs {rule}: got {len(knobs)}."))
    return errors[:MAX_KNOBS]


def _declared_error(field: str, value: object, known: Mapping[str, Knob]) -> FieldError | None:
    """Of a change of a knob in a run that declares `known`."""
    name = field.removeprefix(KNOB_PREFIX)
    if name not in known:
        rule = "must be a knob that the run declares"
        near = [each.setting for each in map(known.__getitem__, near_names(name, known))]
        listed = near or [each.setting for each in list(known.values())[:8]]
        advice = f"{'Near' if near else 'It has'}: {', '.join(listed)}." if listed else "It declares none."
        return FieldError(field[:100], rule, f"{_cut(field)} {rule}. {advice}")
    knob = known[name]
    if knob.accepts(value):
        return None
    return FieldError(field, knob.rule, f"{field} {knob.rule}: got {checks.shown(value)}.")


def _cut(name: str) -> str:
    """A name that may be hostile, to be shown."""
    return (name if name.isprintable() else ascii(name)[1:-1]) if len(name) <= 80 else ascii(name[:77])[1:-1] + "..."


def merge(settings: Settings, changes: Mapping[str, object], knobs: Sequence[Knob] | None = None) -> Settings:
    """`settings` with `changes` applied.

    Args:
        settings: The present settings.
        changes: Only what changes, by name; `preset` stands for the settings of that preset.
        knobs: Those that the run declares. None: not known, and any knob may have any number.

    Returns:
        The new settings.

    Raises:
        SettingsError: A name is unknown, a value is invalid, or a counter would be lowered. It names every such field.
    """
    changes = expand(changes)
    errors: list[FieldError] = []
    turned: dict[str, object] = {}
    declared = None if knobs is None else {each.name: each for each in knobs}
    for name, value in changes.items():
        if is_knob(name):
            own = name.removeprefix(KNOB_PREFIX)
            turned[own] = value
            if declared is None:
                errors += _knob_errors({own: value})
            elif (error := _declared_error(name, value, declared)) is not None:
                errors.append(error)
        elif name not in SETTING_RULES:
            if name == "preset":
                rule = f"must be {' or '.join(PRESETS)}"
                errors.append(FieldError(name, rule, f"{name} {rule}: got {checks.shown(value)}."))
                continue
            known = ", ".join([*SETTING_RULES, f"{KNOB_PREFIX}NAME"])
            near = "".join(f" Did you mean {each}?" for each in near_names(str(name), SETTING_RULES)[:1])
            message = f"{name} is not a setting. Known: {known}.{near}"
            errors.append(FieldError(str(name), "must be a known setting", message))
        elif (error := _problem(name, value)) is not None:
            errors.append(error)
        elif name in COUNTERS and isinstance(value, int) and value < getattr(settings, name):
            rule, _ = SETTING_RULES[name]
            message = (
                f"{name} {rule}: got {value}, it is {getattr(settings, name)} already. Add 1 to run the action once."
            )
            errors.append(FieldError(name, rule, message))
    if errors:
        raise SettingsError(errors[:MAX_ERRORS])
    rolls_back = changes.get("rollback_generation", settings.rollback_generation) != settings.rollback_generation
    if rolls_back and "rollback_to" not in changes:  # the step that an earlier one named was meant for that one
        changes = {**changes, "rollback_to": None}
    fields = {name: value for name, value in changes.items() if not is_knob(name)}
    if turned:
        fields["knobs"] = {**settings.knobs, **turned}
    return msgspec.structs.replace(settings, **fields)


def is_increment(value: object) -> bool:
    """Whether a value is an increment of a counter, such as "+1"."""
    return isinstance(value, str) and _INCREMENT.fullmatch(value) is not None


def resolve_increments(changes: Mapping[str, object], present: Settings) -> dict[str, object]:
    """`changes` with increments such as "+1" replaced by the counters that they lead to.

    Args:
        changes: Settings by name.
        present: The settings that the counters are taken from.
    """
    resolved = dict(changes)
    for name in COUNTERS:
        value = changes.get(name)
        if isinstance(value, str) and is_increment(value):
            resolved[name] = int(getattr(present, name)) + int(value[1:])
    return resolved
