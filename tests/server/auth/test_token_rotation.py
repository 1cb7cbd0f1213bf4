"""Two tokens of one name live at a time, and a tokens file changes under a running server."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from steadynorm_cli.commands import app
from steadynorm_server.auth.principals import Role
from steadynorm_server.auth.token_file import CHECK_EVERY_S, TokenFile
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig

NEW, OLD = "new-and-16-letters", "old-and-16-letters"


def entry(token: str, name: str = "team", role: str = "agent", **more: Any) -> dict[str, Any]:
    return {"name": name, "role": role, "sha256": hashlib.sha256(token.encode()).hexdigest(), **more}


class Watch:
    """A clock that is moved by hand, and the file that is looked at by it."""

    def __init__(self, path: Path, *entries: dict[str, Any]) -> None:
        self.path, self.now = path, 0.0
        self.write(json.dumps(entries))
        self.tokens = Tokens([], TokenFile(path, lambda: self.now))

    def write(self, text: str) -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_text(text)
        os.replace(draft, self.path)

    def names(self, *tokens: str) -> list[str | None]:
        return [found.name if (found := self.tokens.find(token)) else None for token in tokens]


@pytest.mark.parametrize("role", [Role.AGENT, Role.VIEWER, Role.OPERATOR])
def test_the_previous_token_of_a_role_is_good_beside_the_present_one(tmp_path: Path, role: Role) -> None:
    given: dict[str, Any] = {f"{role}_token": SecretStr(NEW), f"{role}_token_previous": SecretStr(OLD)}
    tokens = Tokens.configured(ServerConfig(data=tmp_path, **given))
    assert tokens is not None
    new, old = tokens.find(NEW), tokens.find(OLD)
    assert new is not None
    assert new == old
    assert role in new.roles
    assert tokens.find("older") is None


def test_a_token_is_rotated_in_the_file_without_a_restart(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "tokens.json", entry("old"))
    assert watch.names("old", "new") == ["team", None]
    watch.write(json.dumps([entry("old"), entry("new")]))
    assert watch.names("old", "new") == ["team", None]  # it looks once a second, not with every request
    watch.now += CHECK_EVERY_S
    assert watch.names("old", "new") == ["team", "team"]
    watch.write(json.dumps([entry("new")]))
    watch.now += CHECK_EVERY_S
    assert watch.names("old", "new") == [None, "team"]


@pytest.mark.parametrize("content", ["[{", '[{"name": "x", "role": "king", "sha256": "00"}]', None])
def test_a_broken_file_keeps_the_tokens_that_were_known_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    watch = Watch(tmp_path / "tokens.json", entry("old"))
    if content is None:
        watch.path.unlink()
    else:
        watch.write(content)
    watch.now += CHECK_EVERY_S
    with caplog.at_level(logging.ERROR):
        assert watch.names("old") == ["team"]
        watch.now += CHECK_EVERY_S
        assert watch.names("old") == ["team"]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the last valid tokens stay in force"  # once, not with every request
    ]
    watch.write(json.dumps([entry("new")]))
    watch.now += CHECK_EVERY_S
    assert watch.names("old", "new") == [None, "team"]


def test_a_file_without_entries_lets_nobody_in_rather_than_everybody(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "tokens.json")
    tokens = Tokens.configured(ServerConfig(data=tmp_path, tokens_file=watch.path))
    assert tokens is not None
    assert tokens.find("") is None


def test_a_new_token_is_printed_once_and_its_entry_holds_the_digest_only(tmp_path: Path) -> None:
    command = ["token", "new", "team-a", "--role", "agent", "--runs", "gpt-*", "--runs", "bert"]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output
    token, made = ended.stdout.splitlines()
    assert len(token) >= 40
    assert token not in made
    watch = Watch(tmp_path / "tokens.json", json.loads(made))
    found = watch.tokens.find(token)
    assert found is not None
    assert (found.name, found.roles, found.runs) == ("team-a", frozenset({Role.AGENT}), ("gpt-*", "bert"))
    again = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert again["token"] != token
    assert again["entry"]["sha256"] == hashlib.sha256(again["token"].encode()).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x", "--role", "king"], "a role must be one of agent, viewer, operator, proposer: got 'king'"),
        ([" ", "--role", "agent"], "must have 1 to 100 characters: got 0"),
    ],
)
def test_a_token_that_cannot_be_is_refused(arguments: list[str], said: str) -> None:
    ended = CliRunner().invoke(app, ["token", "new", *arguments])
    assert said in str(ended.exception)
