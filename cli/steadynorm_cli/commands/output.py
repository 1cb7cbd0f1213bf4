"""How values, times, changes and tables are printed."""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from steadynorm_contract.runs import Health, RunState


def number(measured: float | None) -> str:
    """A measured number; a dash where there is none."""
    return "-" if measured is None else f"{measured:.4g}"


def number_column(measured: Sequence[float | None]) -> list[str]:
    """The numbers of one column in one notation, so that their digits are compared at a glance.

    With three digits of each number and at most four decimals, or with exponents in all of them.
    """
    known = [abs(each) for each in measured if each is not None and each != 0]
    if not known or not (min(known) >= 1e-2 and max(known) < 1e6):
        shown = "{:.2e}" if known else "{:.0f}"
    else:
        shown = f"{{:.{max(0, 2 - math.floor(math.log10(min(known))))}f}}"
    return ["-" if each is None else shown.format(each) for each in measured]


def value(setting: object) -> str:
    """A setting's value as it is typed on the command line."""
    if setting is None:
        return "off"
    return msgspec.json.encode(setting).decode().strip('"')


def change(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """Each setting with its value before and after."""
    return ", ".join(f"{name} {value(before.get(name))} → {value(now)}" for name, now in after.items())


def assignments(settings: Mapping[str, object]) -> str:
    """A change as it is typed on the command line."""
    return " ".join(f"{name}={value(each)}" for name, each in settings.items())


def timestamp(moment: float) -> str:
    """Unix seconds as a date and time in UTC."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%SZ}"


def ago(moment: float) -> str:
    """The time since `moment` (Unix seconds) in its largest unit."""
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


_STYLE: dict[str, str] = {
    RunState.RUNNING: "green",
    RunState.STALLED: "yellow",
    RunState.FAILED: "red",
    Health.NONFINITE: "red",
    Health.SPIKING: "yellow",
    Health.THROTTLED: "yellow",
    Health.DISCONNECTED: "yellow",
}


def style_of(word: str) -> str:
    """The color of a state or a health."""
    return _STYLE.get(word, "")


def styled(word: str) -> str:
    """A state or a health in its color, as markup."""
    return f"[{style_of(word)}]{word}[/]" if style_of(word) else word


def table(*columns: str, fixed: Sequence[str] = (), right: Sequence[str] = ()) -> Table:
    """An empty table. fixed: columns that are never wrapped; right: those aligned to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", no_wrap=column in (*fixed, *right))
    return made


def tell(sentence: str) -> None:
    """Something about a list, such as that it is empty: not on standard output, where its entries are."""
    typer.echo(sentence, err=True)


def console() -> Console:
    """Where tables are printed. A pipe has no width: nothing is truncated there."""
    screen = Console()
    return screen if screen.is_terminal else Console(width=240)
