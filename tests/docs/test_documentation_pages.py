"""README and pages: short, no code that is not a tested file's text, and no command that does not exist."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from steadynorm_contract.rule import THROTTLED_TARGET, TensorState, advance
from steadynorm_contract.settings import Mode, Settings


def pages(root: Path) -> list[Path]:
    """README and the pages that people write."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def fences(page: Path, language: str) -> list[str]:
    """The page's code blocks in a language."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [block for _, block in found]


def test_the_readme_is_short(root: Path) -> None:
    assert len((root / "README.md").read_text("utf-8").splitlines()) <= 150


def test_the_readmes_first_code_is_a_whole_example(root: Path) -> None:
    (block,) = fences(root / "README.md", "python")
    assert block == (root / "examples" / "quickstart_train.py").read_text("utf-8")
    compile(block, "README.md", "exec")


def test_python_on_pages_comes_from_tested_files(root: Path) -> None:
    shown = set()
    for page in sorted((root / "docs").glob("*.md")):
        for block in fences(page, "python"):
            for line in filter(None, map(str.strip, block.splitlines())):
                found = re.fullmatch(r'--8<-- "((?:docs/snippets|examples)/\w+\.py)(?::(\w+))?"', line)
                assert found, f"{page.name}: {line}"
                text = (root / found[1]).read_text("utf-8")
                assert found[2] is None or f"# --8<-- [start:{found[2]}]\n" in text, f"{page.name}: {line}"
                shown.add(Path(found[1]).name)
        indented = re.findall(r"^    (?:from|import) .*", page.read_text("utf-8"), re.MULTILINE)
        assert indented == [], page.name
    assert {path.name for path in (root / "docs" / "snippets").glob("*.py")} <= shown


def commands_of(page: Path) -> list[str]:
    """Lines of shell blocks that call steadynorm, and such calls within sentences."""
    text = page.read_text("utf-8")
    lines = re.findall(r"^    (steadynorm .*?)(?:  +#.*)?$", text, re.MULTILINE)
    for block in fences(page, "(?:sh|bash|console)"):
        lines += re.findall(r"^(steadynorm .*?)(?:  +#.*)?$", block, re.MULTILINE)
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return lines + [line for line in re.findall(r"`(steadynorm [^`]+)`", text) if not line.endswith("…")]


@cache
def program() -> Any:
    """`steadynorm`, as Typer makes it."""
    import typer

    from steadynorm_cli.commands import app

    return typer.main.get_command(app)


def parse(line: str) -> None:
    """Let Typer parse a line; where it only names a command, look whether there is such a command."""
    command = program()
    words = shlex.split(line)[1:]
    if words[0].startswith("--") or words == ["COMMAND", "--help"]:
        return
    while getattr(command, "commands", None) is not None:
        assert words, f"{line}: a command is missing"
        assert words[0] in command.commands, f"{line}: there is no command {words[0]}"
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in getattr(parameter, "opts", [])}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} - {"--help"} <= options, line
    if any(not word.startswith("-") and word not in ("N", "S") for word in words):
        words = [
            {"N": "1", "SECONDS": "1", "REVISION": "1", "URL": "http://127.0.0.1:1"}.get(word, word) for word in words
        ]
        if "webhook-test" not in line:
            command.make_context(line, words)


def test_commands_on_pages_exist(root: Path) -> None:
    lines = [(page.name, line) for page in pages(root) for line in commands_of(page)]
    assert len(lines) > 60
    problems = []
    for page, line in lines:
        try:
            parse(line)
        except Exception as error:  # usage errors and failed assertions alike
            problems.append(f"{page}: {line}: {error}")
    assert problems == []


@pytest.mark.parametrize("page", ["how-it-works", "operations"])
def test_figures_of_throttling_are_what_the_rule_does(root: Path, page: str) -> None:
    text = (root / "docs" / f"{page}.md").read_text("utf-8")
    if page == "operations":
        claims = [(300, 0.999, 2200), (1000, 0.999, 4600), (1000, 0.99, 690)]
        assert (
            "2,200 after 300 times and 4,600 after 1000 times with gamma2 0.999, 690 after 1000 times with 0.99" in text
        )
    else:
        found = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE)
        numbers = [[int(cell.replace(",", "")) for cell in row] for row in found]
        assert len(numbers) == 4
        claims = [
            (row[0], gamma2, steps)
            for row in numbers
            for gamma2, steps in zip((0.99, 0.999, 0.9999), row[1:], strict=True)
        ]
    for ratio, gamma2, steps in claims:
        assert throttled_steps(ratio, gamma2) == pytest.approx(steps, rel=0.03), (ratio, gamma2)


def test_the_drawn_spike_is_what_the_page_says_and_what_the_rule_does(root: Path) -> None:
    text = (root / "docs" / "how-it-works.md").read_text("utf-8")
    found = re.search(
        r"<desc>ratio (\d+), target ([\d.]+), throttled (\d+)</desc>",
        (root / "docs" / "images" / "spike.svg").read_text("utf-8"),
    )
    assert found is not None
    ratio, target, throttled = int(found[1]), float(found[2]), int(found[3])
    drawn = (f"has {ratio} times the RMS norm", f"that step is {target:.1f}", f"below 0.3 for {throttled:,} steps")
    for words in drawn:
        assert words in text
    gamma2 = Settings().gamma2
    after = targets(ratio, gamma2, weight=1 - gamma2**1000)
    assert after[0] == pytest.approx(target, rel=0.05)  # norms of a training vary a little
    assert sum(value < THROTTLED_TARGET for value in after) == pytest.approx(throttled, rel=0.05)


def targets(ratio: float, gamma2: float, weight: float = 1.0) -> list[float]:
    """The target at a spike among norms of 1 and in the steps after it. weight: of the steps before it; 1: settled."""
    settings = Settings(gamma2=gamma2)
    state = TensorState(norm_sum=1, norm_weight=1, square_sum=weight, square_weight=weight)
    norms = [ratio, *[1.0] * 30_000]
    return [advance(state, norm, settings, Mode.STABILIZE).target for norm in norms]


def throttled_steps(ratio: float, gamma2: float) -> int:
    """Steps after a spike at which the target is below the threshold, once statistics have settled."""
    return sum(value < THROTTLED_TARGET for value in targets(ratio, gamma2))


def test_each_decision_has_the_number_of_its_file_and_a_number_without_one_is_explained(root: Path) -> None:
    pages = sorted((root / "docs" / "decisions").glob("*.md"))
    numbers = [int(page.name[:4]) for page in pages]
    assert [int(page.read_text("utf-8").split(maxsplit=2)[1].rstrip(".")) for page in pages] == numbers
    left_out = set(range(1, numbers[-1] + 1)) - set(numbers)
    explained = re.findall(r"There is no page (\d+)", pages[0].read_text("utf-8"))
    assert left_out == set(map(int, explained))
