"""What is drawn can be seen on both of the theme's pages. Contrasts are those of WCAG 2."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import steadynorm_dashboard
from steadynorm_dashboard.charts import colors

THEME = tomllib.loads((Path(steadynorm_dashboard.__file__).parent / ".streamlit" / "config.toml").read_text())["theme"]
DRAWN = {
    name: getattr(colors, name) for name in ("RAW", "STABILIZED", "LOSS", "TARGET", "QUIET", "BAD", "MEAN", "RMS")
} | {f"style {at}": color for at, (color, _) in enumerate(colors.LINE_STYLES)}
BANDS = ("RAW", "STABILIZED", "LOSS")

Rgb = tuple[float, float, float]


def rgb(color: str) -> Rgb:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue


def over(page: Rgb, color: str, opacity: float) -> Rgb:
    red, green, blue = (opacity * above + (1 - opacity) * below for above, below in zip(rgb(color), page, strict=True))
    return red, green, blue


def luminance(color: Rgb) -> float:
    linear = [one / 3294.6 if one <= 10 else ((one / 255 + 0.055) / 1.055) ** 2.4 for one in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Rgb, other: Rgb) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(params=["light", "dark"])
def theme(request: pytest.FixtureRequest) -> dict[str, str]:
    found: dict[str, str] = THEME[request.param]
    return found


@pytest.fixture
def page(theme: dict[str, str]) -> Rgb:
    return rgb(theme["backgroundColor"])


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast(rgb("#777777"), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("name", DRAWN)
def test_lines_and_markers_can_be_seen(page: Rgb, name: str) -> None:
    assert contrast(rgb(DRAWN[name]), page) >= 3


@pytest.mark.parametrize("name", BANDS)
def test_a_band_is_seen_as_well_as_the_grid(page: Rgb, theme: dict[str, str], name: str) -> None:
    grid = contrast(rgb(theme["borderColor"]), page)
    assert contrast(over(page, DRAWN[name], colors.BAND), page) >= grid


@pytest.mark.parametrize("name", [name for name in DRAWN if name.startswith("style")] + ["TARGET"])
def test_a_band_beneath_others_and_a_zone_are_not_lost_in_the_page(page: Rgb, name: str) -> None:
    for opacity in (colors.COMPARED_BAND, colors.ZONE):
        assert contrast(over(page, DRAWN[name], opacity), page) >= 1.25


def test_buttons_and_labels_in_grey_can_be_read(page: Rgb, theme: dict[str, str]) -> None:
    assert contrast(rgb(theme["grayTextColor"]), page) >= 4.5
