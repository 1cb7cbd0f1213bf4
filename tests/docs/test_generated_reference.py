"""The generated pages say something of everything that there is."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from steadynorm_contract.events import EventKind
from steadynorm_contract.settings import SETTING_RULES
from steadynorm_server.config import ServerConfig


def rows(page: str) -> list[list[str]]:
    """The cells of all tables of a page, titles and rules left out."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("page", ["settings", "signals", "events", "environment", "commands", "metrics"])
def test_every_row_has_a_meaning(generated: dict[str, str], page: str) -> None:
    named = [row for row in rows(generated[f"reference/{page}.md"]) if row[0].startswith("`")]
    assert len(named) > 10
    meaning = {"signals": 2, "settings": -1}.get(page, -1)
    assert [row for row in named if not row[meaning]] == []


def test_settings_events_and_variables_are_complete(generated: dict[str, str]) -> None:
    def first(page: str) -> set[str]:
        return {row[0].strip("`") for row in rows(generated[f"reference/{page}.md"])}

    assert set(SETTING_RULES) <= first("settings")
    assert {kind.value for kind in EventKind} <= first("events")
    names = {re.sub(r"^STEADYNORM_", "", name).lower() for name in first("environment")} - {"variable"}
    assert names == set(ServerConfig.model_fields)


def test_every_command_has_a_section(reference: ModuleType, generated: dict[str, str]) -> None:
    import typer

    from steadynorm_cli.commands import app

    commands = [" ".join(words) for words, _ in reference.walk(typer.main.get_command(app))]
    assert len(commands) > 15
    found = re.findall(r"^## (.+?) \{", generated["reference/commands.md"], re.MULTILINE)
    assert found == commands


def test_every_route_has_a_section(reference: ModuleType, generated: dict[str, str]) -> None:
    operations = list(reference.operations(reference.openapi()))
    assert len(operations) > 20
    page = generated["reference/http-api.md"]
    for path, method, _ in operations:
        assert f"## {method.upper()} {path} {{ #{reference.anchor(method, path)} }}" in page
    anchors = [reference.anchor(method, path) for path, method, _ in operations]
    assert len(set(anchors)) == len(anchors)
