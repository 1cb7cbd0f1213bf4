"""A change of settings: the body of PATCH settings, presets in it, and the text that people type.

`{"preset": "robust"}` is expanded and stored as the settings that it stands for: agents, audit list and history hold
settings only, and a preset that is revised later changes no run. `robust` is what `attach()` begins with, and
`docs/study.md` explains its values; `paper` is the paper's bare rule, as `Settings()` is.
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from steadynorm_contract.knobs import KNOB_PREFIX

__all__ = ["PRESETS", "Change", "expand", "parse_assignments"]


PRESETS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "paper": MappingProxyType({"gamma1": 0.6, "gamma2": 0.999, "spike_limit": None, "spike_fade": False}),
        "robust": MappingProxyType({"gamma1": 0.6, "gamma2": 0.999, "spike_limit": 3.0, "spike_fade": True}),
    }
)
"""The settings of each preset, by its name. Other settings stay as they are."""


def expand(settings: Mapping[str, object]) -> dict[str, object]:
    """`settings` with a preset replaced by its settings; settings given beside it take precedence.

    `off`, `none` and `null` all stand for None as spike_limit, lr, rollback_to or a knob, and `default` as any but the
    first: what they are without a value is shown as `off`. `knobs` with values by name stands for those of each
    `knob.NAME`. An unknown preset stays, for `merge` to reject.
    """
    if off := [name for name, value in settings.items() if _may_be_off(name) and _is_off(name, value)]:
        settings = {**settings, **dict.fromkeys(off)}
    knobs = settings.get("knobs")
    if isinstance(knobs, Mapping):  # as settings are written
        others = {name: value for name, value in settings.items() if name != "knobs"}
        settings = {**{f"{KNOB_PREFIX}{name}": value for name, value in knobs.items()}, **others}
    named = settings.get("preset")
    if not isinstance(named, str) or named not in PRESETS:
        return dict(settings)
    return {**PRESETS[named], **{name: value for name, value in settings.items() if name != "preset"}}


def _may_be_off(name: object) -> bool:
    return name in ("spike_limit", "lr", "rollback_to") or (isinstance(name, str) and name.startswith(KNOB_PREFIX))


def _is_off(name: str, value: object) -> bool:
    words = ("off", "none", "null") if name == "spike_limit" else ("off", "none", "null", "default")
    return isinstance(value, str) and value.lower() in words


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of PATCH /runs/{run_id}/settings: only what changes, by name or as a `preset`, and the reason.

    Unknown fields are rejected here and in all that extends it: `dry_run` of a bulk change would be ignored here.
    """

    settings: dict[str, object]
    reason: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "settings", expand(self.settings))


def parse_assignments(typed: str) -> dict[str, object]:
    """NAME=VALUE assignments as a change. Names and values are validated by the server.

    Args:
        typed: Assignments separated by spaces or commas. A value is JSON, or a plain word where it is not valid JSON;
            an increment such as `+1` is not resolved.

    Returns:
        The values by name.

    Raises:
        ValueError: An assignment is malformed or repeated, or there is none.
    """
    changes: dict[str, object] = {}
    for one in typed.replace(",", " ").split():
        name, equals, value = one.partition("=")
        if not name or not equals or not value:
            raise ValueError(f"a change must be NAME=VALUE: got {one!r}. Such as gamma2=0.99 or mode=observe.")
        if name in changes:
            raise ValueError(f"each setting must be given once: got {name} twice. Leave one out.")
        try:
            changes[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            changes[name] = value
    if not changes:
        raise ValueError("a change must name at least one setting: got none. Such as gamma2=0.99.")
    return changes
