"""A change being prepared: only what differs is sent; what somebody else changed is neither lost nor undone."""

from __future__ import annotations

import math

import pytest

from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import Desired
from steadynorm_dashboard.panels.settings_draft import DECAYS, Draft, ceiling, rebased, slider_stops, slider_value


def draft(**edits: object) -> Draft:
    made = Draft.of(Desired(4, Settings()))
    made.values.update(edits)
    return made


def test_an_untouched_draft_sends_nothing() -> None:
    assert draft().changes() == {}
    assert draft().errors() == {}


def test_only_what_differs_is_sent() -> None:
    assert draft(gamma2=0.99, mode="stabilize", spike_limit=10.0).changes() == {"gamma2": 0.99, "spike_limit": 10.0}


@pytest.mark.parametrize(
    ("field", "value"),
    [("gamma1", 1.0), ("gamma2", None), ("eps", 0.0), ("spike_limit", 1.0), ("lr_scale", 11.0), ("gamma1", math.nan)],
)
def test_a_value_that_breaks_its_rule_is_named_before_it_is_sent(field: str, value: object) -> None:
    errors = draft(**{field: value}).errors()
    assert list(errors) == [field]
    assert f"{field} must be" in errors[field]


def test_the_servers_refusal_stands_until_the_value_is_another_one() -> None:
    refused = draft(lr_scale=3.0)
    refused.rejected = {"lr_scale": (3.0, "not above 2 on this cluster")}
    assert refused.errors() == {"lr_scale": "not above 2 on this cluster"}
    refused.values["lr_scale"] = 1.5
    assert refused.errors() == {}


def test_on_newer_settings_edits_stay_and_the_rest_follows() -> None:
    mine = draft(gamma2=0.99)
    merged, theirs = rebased(mine, Desired(5, Settings(gamma1=0.7, lr_scale=0.5)))
    assert theirs == {"gamma1": (0.6, 0.7), "lr_scale": (1.0, 0.5)}
    assert merged.base.revision == 5
    assert merged.changes() == {"gamma2": 0.99}


def test_an_edit_that_somebody_else_made_too_is_no_change_any_more() -> None:
    merged, theirs = rebased(draft(gamma2=0.99), Desired(5, Settings(gamma2=0.99)))
    assert theirs == {"gamma2": (0.999, 0.99)}
    assert merged.changes() == {}


@pytest.mark.parametrize(
    ("gamma1", "gamma2", "expected"), [(0.6, 0.999, 12.649), (0.7, 0.9, 0.949), (1.0, 0.9, None), (0.6, None, None)]
)
def test_the_spike_ceiling_moves_with_the_gammas(gamma1: float, gamma2: float | None, expected: float | None) -> None:
    found = ceiling({"gamma1": gamma1, "gamma2": gamma2})
    assert found == (pytest.approx(expected, abs=1e-3) if expected is not None else None)


def test_the_slider_stands_at_what_was_typed() -> None:
    for typed in (*DECAYS, 0.997, 0.9973, 0.9999999, 0.1):
        assert slider_value(typed) == typed
        assert typed in slider_stops(typed)
        assert list(slider_stops(typed)) == sorted({*DECAYS, typed})
    assert slider_value(1.0) == slider_value(None) == slider_value(math.nan) == DECAYS[-1]
