"""An agent with a server of a later version: what it cannot know is left out while it does nothing, else refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from steadynorm.mailbox import InvalidSettings
from steadynorm.transport.http_client import HttpClient
from steadynorm.transport.server_version import KnownServer
from steadynorm_contract import __version__
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import Desired, RunRegistration
from steadynorm_contract.versions import versions_differ

if TYPE_CHECKING:
    from tests.support.agent import StubServer

LATER = "99.1.0"
SENTENCE = f"The agent is steadynorm {__version__} and the server is {LATER}: install steadynorm=={LATER} in the job."


@pytest.fixture
def poller(stub: StubServer) -> HttpClient:
    """The poller's client, whose publisher has registered with a server that has a setting more than this agent."""
    known = KnownServer()
    defaults = msgspec.to_builtins(Settings()) | {"warmth": 0.5}
    answer = {
        "run_id": "r", "incarnation": 1, "acknowledged": 0, "server_version": LATER, "defaults": defaults,
        "desired": {"revision": 0, "settings": defaults},
    }  # fmt: skip
    stub.fault = lambda method, path, body: (201, json.dumps(answer).encode(), {})
    _, update = HttpClient(stub.url, "secret", known).register(RunRegistration(name="r", run_id="r"))
    assert update == Desired(0, Settings())
    return HttpClient(stub.url, "secret", known)


def polled(stub: StubServer, poller: HttpClient, **settings: object) -> object:
    stub.fault = lambda method, path, body: (200, json.dumps({"revision": 3, "settings": settings}).encode(), {})
    return poller.poll("r", 2, 0)


def test_a_setting_of_a_later_version_is_left_out_while_it_is_at_its_default(
    stub: StubServer, poller: HttpClient
) -> None:
    assert polled(stub, poller, gamma1=0.5, warmth=0.5) == Desired(3, Settings(gamma1=0.5))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gamma1": 0.5, "warmth": 0.7}, "it does not have warmth."),
        ({"gamma1": 0.5, "coolness": None}, "it does not have coolness."),
        ({"mode": "anneal"}, "Invalid enum value 'anneal' - at `$.settings.mode`. "),
        ({"gamma1": "auto"}, "got `str` - at `$.settings.gamma1`. "),
    ],
)
def test_one_that_does_something_is_refused_in_a_sentence_that_names_both_versions(
    stub: StubServer, poller: HttpClient, settings: dict[str, object], said: str
) -> None:
    update = polled(stub, poller, **settings)
    assert isinstance(update, InvalidSettings)
    assert update.revision == 3
    assert said in update.reason
    assert update.reason.endswith(SENTENCE)


def test_a_server_that_tells_no_version_gets_no_advice_on_it(stub: StubServer) -> None:
    update = polled(stub, HttpClient(stub.url, "secret"), warmth=0.5)
    assert isinstance(update, InvalidSettings)
    assert update.reason == "this agent cannot read the settings: it does not have warmth."


@pytest.mark.parametrize(
    ("agent", "server", "what"),
    [
        ("0.2.0", "0.10.0", "install steadynorm==0.10.0 in the job."),
        ("0.10.0", "0.2.0", "upgrade the server, or install steadynorm==0.2.0 in the job."),
        ("1.0.0", "1.0.0.dev1", "install steadynorm==1.0.0.dev1 in the job."),
        ("1.0.0", "1.0.0", ""),
        ("", "1.0.0", ""),
        ("1.0.0", "", ""),
    ],
)
def test_the_later_one_is_told_by_its_numbers(agent: str, server: str, what: str) -> None:
    sentence = versions_differ(agent, server)
    assert sentence == (f"The agent is steadynorm {agent} and the server is {server}: {what}" if what else "")
