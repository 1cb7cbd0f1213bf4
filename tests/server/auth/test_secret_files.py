"""Secrets from files, as orchestrators mount them, and tokens that two roles may not share."""

from __future__ import annotations

from pathlib import Path

import pytest

from steadynorm_server.auth.principals import Role, TokenError
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import StartError


def test_tokens_and_the_redis_address_are_read_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "operator").write_text("op-secret-16-long\n")
    (tmp_path / "agent_token_previous").write_text("old-secret-16-long")
    (tmp_path / "redis").write_text("redis://one:6379")
    monkeypatch.setenv("STEADYNORM_OPERATOR_TOKEN_FILE", str(tmp_path / "operator"))
    monkeypatch.setenv("STEADYNORM_AGENT_TOKEN_PREVIOUS_FILE", str(tmp_path / "agent_token_previous"))
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "redis"))
    config = ServerConfig(data=tmp_path)
    assert config.redis_url == "redis://one:6379"
    assert "op-secret-16-long" not in repr(config)
    tokens = Tokens.configured(config)
    assert tokens is not None
    found = tokens.find("op-secret-16-long")
    assert found is not None
    assert Role.OPERATOR in found.roles
    assert tokens.find("old-secret-16-long") is not None


@pytest.mark.parametrize(
    ("content", "also", "said"),
    [
        (None, {}, "STEADYNORM_AGENT_TOKEN_FILE must name a readable text file: .*No such file"),
        (" \n", {}, "is empty. Write the secret into it"),
        ("secret", {"STEADYNORM_AGENT_TOKEN": "x"}, "set STEADYNORM_AGENT_TOKEN_FILE or STEADYNORM_AGENT_TOKEN, not"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, also: dict[str, str], said: str
) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)
    for name, value in {"STEADYNORM_AGENT_TOKEN_FILE": str(tmp_path / "token"), **also}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartError, match=said):
        ServerConfig(data=tmp_path)


def test_two_roles_with_one_token_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYNORM_AGENT_TOKEN", "same")
    monkeypatch.setenv("STEADYNORM_VIEWER_TOKEN_PREVIOUS", "same")
    with pytest.raises(TokenError, match="the tokens of agent and viewer are the same"):
        Tokens.configured(ServerConfig(data=tmp_path))


@pytest.mark.parametrize("name", ["STEADYNORM_OPERATOR_TOKEN", "STEADYNORM_AGENT_TOKEN_PREVIOUS"])
def test_a_token_that_can_be_guessed_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "fifteen-letters")
    with pytest.raises(TokenError, match=f"{name} must have at least 16 characters.*got 15") as refused:
        Tokens.configured(ServerConfig(data=tmp_path))
    assert "fifteen" not in str(refused.value)
    monkeypatch.setenv(name, "sixteen-letters!")
    assert Tokens.configured(ServerConfig(data=tmp_path)) is not None
