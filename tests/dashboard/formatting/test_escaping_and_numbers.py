"""Other people's words are shown as they are written; numbers are shortened without changing what they say."""

from __future__ import annotations

import math

import pytest

from steadynorm_dashboard.formatting import escaping, numbers

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "**bold** _it_ ~~no~~ `code`",
    "[click](http://evil.example)",
    ":red[alarm] $x^2$ #### title",
    "![](http://evil.example/x.png)",
]


@pytest.mark.parametrize("words", HOSTILE)
def test_no_punctuation_reaches_markdown_unescaped(words: str) -> None:
    shown = escaping.markdown(words)
    unescaped = [
        character
        for before, character in zip("x" + shown, shown, strict=False)
        if character in "<>*_~`[]()!#$:|&" and before != "\\"
    ]
    assert unescaped == []
    assert shown.replace("\\", "").replace("\u2060", "") == words


@pytest.mark.parametrize(
    ("words", "taken_apart"),
    [
        ("x :smile: y", ":\u2060smile"),
        ("see http://evil.example", "http:\u2060//"),
        ("see www.evil.example", "www\u2060."),
        ("ask ada@evil.example", "ada@\u2060evil"),
    ],
)
def test_short_codes_and_addresses_are_taken_apart(words: str, taken_apart: str) -> None:
    assert taken_apart in escaping.markdown(words).replace("\\", "")


def test_a_step_is_written_as_people_search_for_it() -> None:
    assert escaping.markdown("applied @ step 412") == "applied \\@ step 412"


def test_plotly_labels_hold_no_html() -> None:
    assert escaping.plotly("<b>a</b> & b") == "&lt;b&gt;a&lt;/b&gt; &amp; b"


def test_invisible_characters_become_visible_and_long_words_short() -> None:
    assert escaping.visible("a\u202eb\x00c\nd") == "a\ufffdb\ufffdc d"
    assert escaping.visible("x" * 500, 10) == "x" * 9 + "…"


def test_a_label_has_backslashes_only_where_markdown_would_act() -> None:
    for plain in ("knob.entropy_coef", "knob.data/mix-2.share"):
        assert escaping.label(plain) == plain
    for acts in ("knob._x_", "a__b__", "www.example.org", "data/www.x.org", "*a*", "a:red[b]", "x" * 200):
        assert escaping.label(acts) == escaping.markdown(acts)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (1204331, "1,204,331"),
        (2.45108, "2.451"),
        (0.0, "0"),
        (0.0034567, "0.003457"),
        (1.234e-5, "1.23e-5"),
        (123456.4, "123,456"),
        (1234567.0, "1.23e6"),
        (9999.96, "10,000"),
        (-0.5, "-0.5"),
    ],
)
def test_a_number_keeps_its_significant_digits(value: float | None, shown: str) -> None:
    assert numbers.number(value) == shown


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.553, 9.8e-4, 0.00144], ["0.55300", "0.00098", "0.00144"]),
        ([2.961, 3.02, None], ["2.961", "3.020", "–"]),
        ([22860.0, -3.5], ["22,860.0", "-3.5"]),
        ([1.5, 2e-7, 0.0], ["1.50e0", "2.00e-7", "0.00e0"]),
        ([2.0e7, 1.0], ["2.00e7", "1.00e0"]),
        ([1200, 3], ["1,200", "3"]),
        ([0.0, math.nan], ["0", "–"]),
    ],
)
def test_all_numbers_of_a_column_are_written_in_one_notation(values: list[float | None], shown: list[str]) -> None:
    assert list(map(numbers.column(values), values)) == shown


def test_a_setting_near_one_is_not_rounded_to_it() -> None:
    assert numbers.setting(0.9999999) == "0.9999999"
    assert numbers.setting(1e-12) == "1e-12"
    assert numbers.setting(None) == "off"


@pytest.mark.parametrize(
    ("gamma", "words"),
    [
        (0.5, "half-life 1 step"),
        (0.999, "half-life 693 steps"),
        (0.99999, "half-life 69,314 steps"),
        (0.0, "newest step only"),
    ],
)
def test_a_decay_is_a_half_life_in_steps(gamma: float, words: str) -> None:
    assert numbers.half_life(gamma) == words


def test_a_moment_is_told_in_the_visitors_time_zone() -> None:
    noon = 1_700_049_600.0  # 2023-11-15 12:00 UTC
    assert numbers.moment(noon, noon + 60, "Europe/Berlin") == "13:00:00"
    assert numbers.moment(noon, noon + 86_400, None) == "2023-11-15 12:00"
    assert numbers.moment(noon, noon, "not/a zone") == "12:00:00"


@pytest.mark.parametrize(
    ("seconds", "words"), [(-3, "0 s"), (12, "12 s"), (600, "10 min"), (2e4, "5.56 h"), (4e5, "4.63 d")]
)
def test_durations_are_short(seconds: float, words: str) -> None:
    assert numbers.duration(seconds) == words


def test_a_page_names_the_zone_of_its_times() -> None:
    winter = 1_700_000_000.0
    assert numbers.zone_words("Europe/Berlin", winter) == "Europe/Berlin (UTC+01:00)"
    assert numbers.zone_words("Asia/Kolkata", winter) == "Asia/Kolkata (UTC+05:30)"
    assert [numbers.zone_words(zone, winter) for zone in (None, "UTC", "Mars/Base", "../etc")] == ["UTC"] * 4
