"""A preset is nothing but the settings that it stands for."""

from __future__ import annotations

import msgspec
import pytest

from steadynorm_contract.bulk import Bulk, Selection
from steadynorm_contract.changes import PRESETS, Change, parse_assignments
from steadynorm_contract.schedules import NewSchedule
from steadynorm_contract.settings import SETTING_RULES, Mode, Settings, SettingsError, merge
from steadynorm_contract.watch_rules import WatchRule, parse_condition

ROBUST = dict(PRESETS["robust"])


def test_robust_limits_and_fades() -> None:
    assert ROBUST == {"gamma1": 0.6, "gamma2": 0.999, "spike_limit": 3.0, "spike_fade": True}


def test_the_papers_preset_is_what_a_run_begins_with() -> None:
    assert merge(Settings(), {"preset": "paper"}) == Settings()
    assert merge(Settings(), {"preset": "robust"}) != Settings()


def test_settings_beside_a_preset_win_and_the_others_stay() -> None:
    before = Settings(mode=Mode.OBSERVE, gamma2=0.9, lr_scale=0.5)
    assert merge(before, {"gamma1": 0.7, "preset": "robust"}) == merge(before, {**ROBUST, "gamma1": 0.7})


@pytest.mark.parametrize("name", ["fast", "", None, 1, ["robust"], {}])
def test_an_unknown_preset_is_refused(name: object) -> None:
    with pytest.raises(SettingsError, match="preset must be paper or robust: got ") as raised:
        merge(Settings(), {"preset": name})
    assert [error.field for error in raised.value.errors] == ["preset"]


def test_whatever_changes_settings_holds_what_a_preset_stands_for() -> None:
    given: dict[str, object] = {"preset": "robust"}
    made: list[Change | NewSchedule | WatchRule | Bulk] = [
        Change(given),
        NewSchedule(from_step=10, settings=given),
        WatchRule(id="a", when=parse_condition("nonfinite > 0, 3 times"), settings=given),
        Bulk(select=Selection(run_ids=["a"]), settings=given),
    ]
    for one in made:
        assert one.settings == ROBUST
        assert msgspec.json.decode(msgspec.json.encode(one), type=type(one)) == one
    assert msgspec.json.decode(b'{"settings": {"preset": "robust"}}', type=Change).settings == ROBUST


@pytest.mark.parametrize("word", ["off", "none", "null", "None"])
@pytest.mark.parametrize("name", ["spike_limit", "lr", "rollback_to"])
def test_every_word_for_none_is_taken_and_the_rule_names_one(name: str, word: str) -> None:
    assert Change(parse_assignments(f"{name}={word}")).settings == {name: None}
    assert getattr(merge(merge(Settings(), {name: 3}), {name: word}), name) is None
    assert SETTING_RULES[name][0].startswith("must be off or ")
    assert merge(Settings(), {"mode": "off"}).mode == "off"


def test_default_is_a_word_for_none_where_that_is_what_the_program_has() -> None:
    taken = Change(parse_assignments("lr=default rollback_to=Default knob.weight_decay=default")).settings
    assert taken == {"lr": None, "rollback_to": None, "knob.weight_decay": None}
    with pytest.raises(SettingsError, match="spike_limit must be off or greater than 1: got 'default'"):
        merge(Settings(), {"spike_limit": "default"})  # an agent begins with 3
