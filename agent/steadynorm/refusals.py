"""Why a change of settings cannot be applied to this training. Each function says it in a sentence, or nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch.optim import Optimizer

from steadynorm.learning_rates import has_rate, steps_by_rate
from steadynorm_contract.knobs import Knob, is_allowed
from steadynorm_contract.settings import RecoveryMode, Settings, by_name


def forbidden(now: Settings, desired: Settings, allow: Collection[str] | None) -> str:
    """Which changes `allow` forbids; empty if none."""
    if allow is None:
        return ""
    settings = by_name(now)
    outside = [
        f"{name}={value!s} (it is {settings[name]!s})"
        for name, value in by_name(desired).items()
        if value != settings[name] and not is_allowed(name, allow)
    ]
    if not outside:
        return ""
    return (
        f"this run allows changes of {', '.join(allow) or 'nothing'} only: got {', '.join(outside)}. "
        "Set these back to their values to change the others."
    )


def without_effect(now: Settings, desired: Settings, optimizers: Sequence[Optimizer]) -> str:
    """Which change the optimizers cannot follow; empty if none."""
    first = next(iter(optimizers), None)
    if desired.lr not in (None, now.lr) and not (first and steps_by_rate(first, first.param_groups[0])):
        return (
            f"lr needs a first parameter group with a learning rate, `lr`, that it steps by: got lr={desired.lr}, "
            f"and {type(first).__name__} has none there. Set lr back to {now.lr} to change the others."
        )
    if desired.lr_scale in (1.0, now.lr_scale) or has_rate(optimizers):
        return ""
    return (
        f"lr_scale needs an optimizer whose groups have a learning rate, `lr`: got lr_scale={desired.lr_scale}, "
        f"and no group of {', '.join(type(each).__name__ for each in optimizers)} has one that it steps by. "
        f"Set lr_scale back to {now.lr_scale} to change the others."
    )


def out_of_range(now: Settings, desired: Settings, knobs: Mapping[str, Knob]) -> str:
    """Which knob's value its declaration does not take; empty if none."""
    if desired.knobs == now.knobs:
        return ""
    for name, value in desired.knobs.items():
        if (knob := knobs.get(name)) is not None and not knob.accepts(value):
            return f"{knob.setting} {knob.rule}: got {value}. Set it back to {now.knobs[name]}."
    return ""


def without_recovery(before: Settings, after: Settings) -> str:
    """Of an agent that keeps no snapshots: it is `off`, and can be set back to that."""
    if (
        after.recovery in (before.recovery, RecoveryMode.OFF)
        and after.rollback_generation == before.rollback_generation
    ):
        return ""
    return "this run was attached without snapshots: pass recovery=steadynorm.Recovery() to attach() to roll it back."
