"""Who may do what, and how a token is kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from steadynorm_server.auth.principals import Role, TokenError
from steadynorm_server.auth.tokens import Tokens, local_token
from steadynorm_server.config import ServerConfig
from steadynorm_server.runs.repository import RunRepository

SECRETS = ("op-secret-16-long", "ag-secret-16-long", "vi-secret-16-long")
OPERATOR, AGENT, VIEWER = ({"Authorization": f"Bearer {secret}"} for secret in SECRETS)


@pytest.fixture
def configured(tmp_path: Path) -> ServerConfig:
    return ServerConfig(
        data=tmp_path,
        operator_token=SecretStr("op-secret-16-long"),
        agent_token=SecretStr("ag-secret-16-long"),
        viewer_token=SecretStr("vi-secret-16-long"),
    )


@pytest.fixture
async def guarded(serve: Any, configured: ServerConfig, make_agent: Any, body_of: Any) -> httpx.AsyncClient:
    """A server with a token a role, and the run tiny-1."""
    client: httpx.AsyncClient = await serve(Tokens.configured(configured))
    answer = await client.post("/runs", content=body_of(make_agent(client).registration), headers=AGENT)
    assert answer.status_code == 201
    del client.headers["Authorization"]
    return client


@pytest.mark.parametrize("token", ["pässwörd".encode(), "密码".encode(), b"\xff\xfe\x80", b"x" * 10_000])
async def test_a_token_of_odd_bytes_is_only_wrong(guarded: httpx.AsyncClient, token: bytes) -> None:
    answer = await guarded.get("/runs", headers={b"Authorization": b"Bearer " + token})
    assert answer.status_code == 401


async def test_the_audit_names_the_token(guarded: httpx.AsyncClient) -> None:
    changed = await guarded.patch(
        "/runs/tiny-1/settings", json={"settings": {"gamma2": 0.9}}, headers={**OPERATOR, "If-Match": '"0"'}
    )
    assert changed.status_code == 200
    (entry,) = (await guarded.get("/runs/tiny-1/audit", headers=VIEWER)).json()["entries"]
    assert entry["actor"] == "operator"


async def test_a_bound_agent_touches_its_own_runs_only(
    serve: Any, tmp_path: Path, make_agent: Any, body_of: Any, api: httpx.AsyncClient, repository: RunRepository
) -> None:
    foreign = make_agent(api, name="other", run_id="foreign")
    await foreign.register()
    file = tmp_path / "tokens.json"
    digest = hashlib.sha256(b"bound").hexdigest()
    file.write_text(json.dumps([{"name": "team", "role": "agent", "sha256": digest, "runs": ["gpt-*", "tiny"]}]))
    client = await serve(Tokens.configured(ServerConfig(data=tmp_path, tokens_file=file)))
    client.headers["Authorization"] = "Bearer bound"
    own = make_agent(client)
    await own.register()
    await own.send([1])
    waiting = {"after_revision": 0, "wait": 0.01}
    assert (await client.get("/runs/tiny-1/settings", params=waiting)).status_code == 200
    assert (await repository.get("tiny-1")).poll_expires_at > 0

    intruder = make_agent(client, name="other", run_id="foreign")
    refused = [
        await client.post("/runs", content=body_of(intruder.registration)),
        await intruder.post(intruder.batch(1, [1])),
        await client.get("/runs/foreign/settings"),
        await client.get("/runs/foreign/settings", params=waiting),
        await client.post("/runs/foreign/finish", json={"state": "failed"}),
    ]
    assert [answer.status_code for answer in refused] == [403] * 5
    assert (await repository.get("foreign")).poll_expires_at == 0
    assert "'team' is bound to runs named gpt-*, tiny: 'other' is not among them" in refused[0].json()["detail"]
    # Nor under a name of its own.
    hijack = make_agent(client, name="gpt-x", run_id="foreign")
    assert (await client.post("/runs", content=body_of(hijack.registration))).status_code == 422
    assert (await foreign.get())["incarnation"] == 1


async def test_metrics_ask_for_a_token_when_told_to(serve: Any, configured: ServerConfig) -> None:
    client = await serve(Tokens.configured(configured), metrics_auth=True)
    url = "http://test/metrics"
    assert (await client.get(url, headers={"Authorization": ""})).status_code == 401
    assert (await client.get(url, headers=AGENT)).status_code == 403
    assert (await client.get(url, headers=VIEWER)).status_code == 200
    for path in ("healthz", "readyz"):
        assert (await client.get(f"http://test/{path}", headers={"Authorization": ""})).status_code == 200


def test_the_local_token_is_made_once_and_kept_private(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    token = local_token(folder)
    assert len(token) >= 32
    assert local_token(folder) == token
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["token"]
    found = Tokens.single(token).find(token)
    assert found is not None
    assert (found.name, found.roles) == ("local", frozenset({Role.AGENT, Role.VIEWER, Role.OPERATOR}))


def test_a_broken_local_token_is_explained(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    with pytest.raises(TokenError, match="does not hold a token"):
        local_token(tmp_path)
    (tmp_path / "token").write_bytes(b"\n")
    assert local_token(tmp_path)


def test_without_configuration_there_are_no_tokens(tmp_path: Path) -> None:
    assert Tokens.configured(ServerConfig(data=tmp_path)) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "must be a JSON list"),
        ('[{"name": "a", "role": "king", "sha256": "00"}]', "Invalid enum value 'king'"),
        ('[{"name": "a", "role": "agent", "sha256": "zz"}]', "non-hexadecimal"),
        ('[{"name": "a", "role": "agent", "sha256": "00"}]', "must be 64 hexadecimal digits"),
        ('[{"name": "a", "role": "agent", "token": "x"}]', "must be a JSON list"),
    ],
)
def test_a_broken_tokens_file_is_explained(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(content)
    with pytest.raises(TokenError, match=said):
        Tokens.configured(ServerConfig(data=tmp_path, tokens_file=file))


def test_a_missing_tokens_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="No such file"):
        Tokens.configured(ServerConfig(data=tmp_path, tokens_file=tmp_path / "none.json"))


async def test_of_several_tokens_in_one_request_none_counts(guarded: httpx.AsyncClient) -> None:
    for known, other in ((OPERATOR, {"Authorization": "Bearer unknown"}), (OPERATOR, VIEWER)):
        both = [*known.items(), *other.items()]
        for headers in (both, both[::-1]):
            answer = await guarded.get("/runs", headers=headers)
            assert (answer.status_code, "one Authorization header" in answer.json()["detail"]) == (400, True)
