"""Every setting has a rule, and every rule is kept everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from steadynorm_contract.settings import SETTING_RULES, Mode, RecoveryMode, Settings, SettingsError, Transfer, merge

GOOD: dict[str, list[Any]] = {
    "mode": ["off", "observe", "clip", "stabilize", Mode.OFF],
    "gamma1": [0, 0.0, 0.6, 0.9999999],
    "gamma2": [0, 0.999, 0.9999999],
    "eps": [1e-300, 1e-12, 1e-3],
    "spike_limit": [None, 1.0000001, 2, 1e30],
    "spike_fade": [True, False],
    "transfer": ["bumpless", "plain", Transfer.PLAIN],
    "clip_norm": ["auto", 1e-9, 1, 3e38],
    "lr_scale": [0, 1, 10, 0.5],
    "paused": [True, False],
    "stop": [True, False],
    "reset_generation": [0, 1, 2**31 - 1],
    "checkpoint_generation": [0, 5],
    "recovery": ["off", "advise", "act", RecoveryMode.ACT],
    "rollback_generation": [0, 5],
    "rollback_to": [None, 0, 900, 2**31 - 1],
    "lr": [None, 0, 3e-4, 1e6],
    "detail_every": [1, 10, 1000],
}
NUMBERS = [math.nan, math.inf, -math.inf, "0.5", True, None, [], {}, 10**400, 10**5000]
BAD: dict[str, list[Any]] = {
    "mode": ["on", "OFF", "", None, 1, True, []],
    "gamma1": [1, 1.0, -0.1, 1.5, 0.99999999999, *NUMBERS],
    "gamma2": [1, 1.0, -1e-9, 0.99999999, *NUMBERS],
    "eps": [0, -1e-12, 0.0011, 1, *NUMBERS],
    "spike_limit": [1, 1.0, 0, -3, 1e39, *(value for value in NUMBERS if value is not None)],
    "spike_fade": [0, 1, "true", None, math.nan],
    "transfer": ["smooth", None, 0],
    "clip_norm": [0, 0.0, -1, 1e39, "AUTO", "", *NUMBERS],
    "lr_scale": [-0.1, 10.1, *NUMBERS],
    "paused": [0, 1, "true", None],
    "stop": [0, "yes", None],
    "reset_generation": [-1, 1.0, 2**31, True, "1", None, 10**5000],
    "checkpoint_generation": [-1, 0.5, None],
    "recovery": ["on", "ACT", None, True, 1],
    "rollback_generation": [-1, 0.5, None],
    "rollback_to": [-1, 1.5, True, "newest", 2**31],
    "lr": [-1e-9, 1.1e6, *(value for value in NUMBERS if value is not None)],
    "detail_every": [0, 1001, 2.0, *NUMBERS],
}
GOOD_CASES = [(name, value) for name, values in GOOD.items() for value in values]
BAD_CASES = [(name, value) for name, values in BAD.items() for value in values]


def _label(value: object) -> str:
    return "huge" if isinstance(value, int) and abs(value) > 2**64 else str(value)


def test_the_tables_cover_every_setting() -> None:
    assert set(GOOD) == set(BAD) == set(SETTING_RULES) == set(Settings.__struct_fields__) - {"knobs"}


@pytest.mark.parametrize(("name", "value"), GOOD_CASES, ids=_label)
def test_a_good_value_is_taken(name: str, value: Any) -> None:
    assert getattr(Settings(**{name: value}), name) == value
    assert getattr(merge(Settings(), {name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), BAD_CASES, ids=_label)
def test_a_bad_value_is_refused_by_field_rule_value_and_advice(name: str, value: Any) -> None:
    attempts: list[Callable[[], Settings]] = [
        lambda: Settings(**{name: value}),
        lambda: merge(Settings(), {name: value}),
    ]
    for attempt in attempts:
        with pytest.raises(SettingsError) as refused:
            attempt()
        (error,) = refused.value.errors
        assert (error.field, error.rule) == (name, SETTING_RULES[name][0])
        assert error.message.startswith(f"{name} {error.rule}: got ")
        advice = error.message.partition(": got ")[2].partition(". ")[2]
        assert advice.endswith(".")
        assert len(error.message) < 300


def test_defaults_are_the_papers() -> None:
    settings = Settings()
    assert (settings.mode, settings.gamma1, settings.gamma2, settings.eps) == (Mode.STABILIZE, 0.6, 0.999, 1e-12)
    assert (settings.spike_limit, settings.transfer, settings.lr_scale) == (None, Transfer.BUMPLESS, 1.0)
    assert settings.clip_norm == 1.0
    assert (settings.spike_fade, settings.paused, settings.stop) == (False, False, False)
    assert (settings.reset_generation, settings.checkpoint_generation) == (0, 0)


def test_names_become_members() -> None:
    settings = Settings(mode="off", transfer="plain")  # type: ignore[arg-type] # what people write
    assert settings.mode is Mode.OFF
    assert settings.transfer is Transfer.PLAIN


def test_all_errors_are_named_at_once_and_nothing_changes() -> None:
    before = Settings(reset_generation=3)
    with pytest.raises(SettingsError) as refused:
        merge(before, {"gamma1": 1, "gamma9": 0, "reset_generation": 2, "eps": 1e-6})
    assert [error.field for error in refused.value.errors] == ["gamma1", "gamma9", "reset_generation"]
    assert "gamma9 is not a setting. Known: mode, gamma1" in str(refused.value)
    assert "it is 3 already. Add 1 to run the action once." in str(refused.value)
    assert before == Settings(reset_generation=3)


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        Settings().gamma1 = 0.5  # type: ignore[misc] # that is what is tested


def test_an_unknown_field_on_the_wire_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="gamma9"):
        msgspec.json.decode(b'{"gamma9": 1}', type=Settings)


@given(
    st.dictionaries(
        st.sampled_from([*SETTING_RULES, "gamma9"]), st.one_of(st.none(), st.floats(), st.text(), st.booleans())
    )
)
@example({"spike_limit": "NONE", "lr": "Off"})
def test_whatever_merge_gives_is_within_the_rules(changes: dict[str, Any]) -> None:
    try:
        merged = merge(Settings(), changes)
    except SettingsError:
        return
    assert Settings(**msgspec.structs.asdict(merged)) == merged
    off = [name for name in ("spike_limit", "lr") if str(changes.get(name, "")).lower() in ("off", "none", "null")]
    expected = {**changes, **dict.fromkeys(off)}
    assert {name: getattr(merged, name) for name in changes} == expected


def test_a_name_that_nearly_is_a_setting_is_guessed() -> None:
    with pytest.raises(SettingsError, match=r"knob\.NAME\. Did you mean lr_scale\? gamma1 must be in"):
        merge(Settings(), {"lr_scal": 0.5, "gamma1": 1})
