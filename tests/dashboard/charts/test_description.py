"""Figures in words, for who cannot see them."""

from __future__ import annotations

from steadynorm_contract.series import Heatmap, Series
from steadynorm_dashboard.charts.comparison import ComparedRun, comparison_figure
from steadynorm_dashboard.charts.description import describe
from steadynorm_dashboard.charts.figure import Figure, scatter
from steadynorm_dashboard.charts.heatmap import heatmap_figure
from steadynorm_dashboard.charts.panels import STEPS
from steadynorm_dashboard.charts.run import run_figure


def test_each_line_is_told_by_its_newest_value_and_by_the_range_of_its_band() -> None:
    steps, counts = [0, 10, 20], [10, 10, 10]
    loss = Series(steps, counts, [1.5, 2.0, 0.25], [5.0, 2.5, 1.0], [9.0, 3.0, 1.5])
    ratios = Series(steps, counts, [1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 40.0, 1.0])
    norms = Series(steps, counts, [1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 8.0, 1.0])
    figure = run_figure({"loss": loss, "raw_norm": norms, "spike_ratio_max": ratios}, [], [], revision="")
    assert figure is not None
    said = describe(figure)
    assert said.startswith("loss: newest 1, between 0.25 and 9. raw norm: newest 1, between 1 and 8. ")
    assert said.endswith("1 marked: spike.")


def test_a_map_is_told_by_its_largest_cell_and_an_empty_figure_by_nothing() -> None:
    heat = Heatmap("spike_ratio", ["a.weight", "b<i>.weight"], [5, 6], [1, 1], [0.0, 1.0], [[1.0, None], [2.0, 31.0]])
    figure = heatmap_figure(heat, revision="")
    assert figure is not None
    assert describe(figure) == "2 rows. Largest: b<i>.weight: 31 × its baseline, from step 6."
    assert describe(Figure([scatter(x=[], y=[], name="loss")], {"height": 1})) == ""


def test_lines_of_one_name_are_told_apart_by_their_panels_and_have_their_own_bands() -> None:
    steps, counts = [0, 10], [10, 10]
    loss = Series(steps, counts, [1.5, 0.25], [5.0, 1.0], [9.0, 1.5])
    norms = Series(steps, counts, [20.0, 30.0], [50.0, 60.0], [70.0, 80.0])
    runs = [ComparedRun("gpt", 0.0, {"loss": loss, "raw_norm": norms})]
    figure = comparison_figure(runs, [STEPS], revision="")
    assert figure is not None
    said = describe(figure)
    assert "loss, gpt: newest 1, between 0.25 and 9." in said.lower()
    assert "gpt: newest 60, between 20 and 80." in said
