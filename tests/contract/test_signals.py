"""The catalogue of signals has one sane entry for everything that is recorded or shown."""

from __future__ import annotations

import msgspec
import pytest

from steadynorm_contract.runs import RunSummary
from steadynorm_contract.series import HEATMAP_SIGNALS, ParameterView
from steadynorm_contract.signals import DERIVED, PARAMETER_SIGNALS, SCALARS, Signal, signal
from steadynorm_contract.telemetry import ROW_COLUMNS, SCALAR_COLUMNS

EVERY = (*SCALARS, *PARAMETER_SIGNALS, *DERIVED)
UNITS = {"as logged", "per step", "gradient", "1", "parameters", "steps", "steps/s", "rows", ""}


def named(each: Signal) -> str:
    return f"{each.kind}:{each.name}"


@pytest.mark.parametrize("each", EVERY, ids=named)
def test_an_entry_is_complete(each: Signal) -> None:
    assert each.name.isidentifier()
    assert each.name == each.name.lower()
    assert each.title
    assert not each.title.endswith(".")
    assert each.unit in UNITS
    assert (each.unit == "") == each.is_index
    assert each.subtitle or each.is_index
    assert each.description[0].isupper() or each.description.startswith("norm_mean / ")
    assert each.description.endswith(".")
    assert ". " not in each.description, "one sentence"
    assert each.metric is None or each.metric.startswith("steadynorm_")
    assert each.scale == "linear" or each.unit in {"gradient", "1"}, "a log axis needs values above zero"


def test_names_titles_and_metrics_are_unique() -> None:
    for of in ([named(each) for each in EVERY], [each.metric for each in EVERY if each.metric]):
        assert len(of) == len(set(of))
    for kind in ("scalar", "parameter"):
        titles = [each.title for each in EVERY if each.kind == kind]
        assert len(titles) == len(set(titles))


def test_every_recorded_column_is_a_signal_and_the_reverse() -> None:
    assert {each.name for each in SCALARS if each.recorded} == set(SCALAR_COLUMNS)
    assert {each.name for each in PARAMETER_SIGNALS if each.recorded} == set(ROW_COLUMNS)
    assert (*ROW_COLUMNS, "target") == HEATMAP_SIGNALS


def test_every_number_that_is_shown_of_a_run_or_a_parameter_is_a_signal() -> None:
    moments = {"archived", "deletes_at"}
    optional = [
        field.name
        for field in msgspec.structs.fields(RunSummary)
        if field.type == float | None and field.name not in moments
    ]
    assert {"loss", "raw_norm", "steps_per_s"} <= set(optional)
    assert all(signal(name).kind == "scalar" for name in optional)
    optional = [field.name for field in msgspec.structs.fields(ParameterView) if field.type == float | None]
    assert set(HEATMAP_SIGNALS) < set(optional)
    assert all(signal(f"{name}/").kind == "parameter" for name in (*optional, "spikes"))


def test_a_signal_is_found_by_its_column_and_by_the_name_of_its_series() -> None:
    assert signal("raw_norm").kind == "scalar"
    assert signal("raw_norm/blocks.0.weight").kind == "parameter"
    assert signal("raw_norm/a/b").subtitle == "L2 of this tensor"
    assert signal("norm_mean").kind == "parameter"
    for name in ("", "no_such", "loss/blocks.0.weight"):
        with pytest.raises(KeyError):
            signal(name)
