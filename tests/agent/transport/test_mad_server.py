"""A server that answers nonsense: no number of it gets further than the client, and the job's log has a line or two."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import steadynorm
from steadynorm.mailbox import InvalidSettings
from steadynorm.transport.backoff import Backoff
from steadynorm.transport.http_client import HttpClient, RequestRejected, ServerUnavailable, VersionRejected
from steadynorm.transport.status_log import MAX_REJECTIONS, ConnectionLog
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import RunRegistration

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training

Until = Callable[[Callable[[], object]], None]
SETTINGS = msgspec.to_builtins(Settings())
BIG = 2**70
MOST_CHARACTERS = 700


def desired(revision: int, **settings: object) -> dict[str, Any]:
    return {"revision": revision, "settings": {**SETTINGS, **settings}}


REGISTRATION = {"incarnation": 1, "acknowledged": 0, "desired": desired(0)}


@pytest.mark.parametrize(
    "fault",
    [
        {field: number}
        for field in ("incarnation", "acknowledged", "previous_acknowledged")
        for number in (BIG, 2**63, -1)
    ]
    + [{"desired": desired(number)} for number in (BIG, 2**63, -7)],
)
def test_a_registration_with_impossible_numbers_is_refused(stub: StubServer, fault: dict[str, Any]) -> None:
    stub.fault = lambda method, path, body: (201, json.dumps(REGISTRATION | fault).encode(), {})
    with pytest.raises(RequestRejected, match="is this another server"):
        HttpClient(stub.url).register(RunRegistration(name="r", run_id="r"))


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps({"acknowledged": BIG, "desired": desired(0)}),
        json.dumps({"acknowledged": -1, "desired": desired(0)}),
        json.dumps({"acknowledged": 1, "desired": desired(BIG)}),
        '{"acknowledged": 1, "desired": {"revision": 0, "settings": {}}, "pace_s": NaN}',
        '{"acknowledged": 1, "desired": {"revision": 0, "settings": {}}, "pace_s": 1e999}',
        "[" * 100_000,
        '{"' + "x" * 100_000 + '": ',
    ],
)
def test_an_answer_that_is_none_is_refused_in_few_words(stub: StubServer, answer: str) -> None:
    stub.fault = lambda method, path, body: (200, answer.encode(), {})
    client = HttpClient(stub.url)
    calls: list[Callable[[], object]] = [lambda: client.send("r", b""), lambda: client.poll("r", 0, 0)]
    for call in calls:
        with pytest.raises(RequestRejected, match="is this another server") as raised:
            call()
        assert len(str(raised.value)) < MOST_CHARACTERS


@pytest.mark.parametrize("settings", [{"reset_generation": BIG}, {"rollback_to": -BIG}, {"x" * 100_000: 1}])
def test_settings_that_cannot_be_are_refused_in_few_words(stub: StubServer, settings: dict[str, Any]) -> None:
    stub.fault = lambda method, path, body: (200, json.dumps(desired(3, **settings)).encode(), {})
    update = HttpClient(stub.url).poll("r", 0, 0)
    assert isinstance(update, InvalidSettings)
    assert len(update.reason) < MOST_CHARACTERS


def test_a_version_of_five_thousand_digits_is_no_error(stub: StubServer) -> None:
    answer = REGISTRATION | {"server_version": "9" * 5000, "desired": desired(3, gamma1=7)}
    stub.fault = lambda method, path, body: (201, json.dumps(answer).encode(), {})
    _, update = HttpClient(stub.url).register(RunRegistration(name="r", run_id="r"))
    assert isinstance(update, InvalidSettings)
    assert len(update.reason) < MOST_CHARACTERS


@pytest.mark.parametrize(
    "text",
    ["1e400", "nan", "-5", "nonsense", "Mon, 01 Jan 0001 00:00:00 -0000", "Fri, 31 Dec 9999 23:59:59 -2359", "1 1 1"],
)
def test_whatever_a_server_says_of_when_to_come_again_the_wait_has_a_bound(stub: StubServer, text: str) -> None:
    stub.fault = lambda method, path, body: (503, b"", {"Retry-After": text})
    with pytest.raises(ServerUnavailable) as raised:
        HttpClient(stub.url).send("r", b"")
    assert 0 < Backoff(0.5, 30.0).next_s(raised.value.retry_after_s) <= 330


def test_a_refusal_is_told_in_one_line_of_bounded_length(stub: StubServer) -> None:
    problem = {"title": "no\n" * 1000, "status": 401, "detail": "x" * 100_000}
    stub.fault = lambda method, path, body: (401, json.dumps(problem).encode(), {})
    with pytest.raises(RequestRejected) as raised:
        HttpClient(stub.url).send("r", b"")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < MOST_CHARACTERS


def test_refusals_of_always_another_text_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    told = ConnectionLog("http://mad")
    for number in range(10 * MAX_REJECTIONS):
        told.failed(RequestRejected(f"no, {number}", 401))
        told.recovered()
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == MAX_REJECTIONS
    told.failed(VersionRejected("schema version 9", 422), final=True)
    assert "nothing more is sent to http://mad" in caplog.text  # which happens once


def test_training_with_a_mad_server_says_one_line_and_raises_nothing(
    stub: StubServer,
    training: Training,
    until: Callable[[Callable[[], object]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers: list[str] = []

    def mad(method: str, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]] | None:
        if path == "/runs":
            return None
        answers.append(path)
        update = desired(2**64 + len(answers))
        return 200, json.dumps(update | {"acknowledged": -1, "desired": update}).encode(), {}

    stub.fault = mad
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    until(lambda: len(answers) > 1)
    training.step()
    assert (agent.applied_revision, agent.counters.errors, agent.counters.sending_errors) == (0, 0, 0)
    warnings = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert [text for text in warnings if "rejects this run's data" not in text] == []
    assert len(warnings) <= 1
    agent.close()
