"""The webhooks file: what it may say, what is refused in words that help, and that no secret gets out."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steadynorm_contract.events import EventKind
from steadynorm_contract.webhooks import sign, verify
from steadynorm_server.config import ServerConfig
from steadynorm_server.runtime.serve import ServeError, serve
from steadynorm_server.webhooks.config import DEFAULT_KINDS, Webhook, WebhookError, is_blocked_host, read
from steadynorm_server.webhooks.sender import WebhookSender

GOOD = 'name = "a"\nurl = "https://hooks.example.org/T0/secret-part"\nsecret_file = "{secret}"\n'


def write(folder: Path, *entries: str) -> Path:
    """A file of entries, in which {secret} stands for a good secret's file."""
    (folder / "secret").write_text("0123456789abcdef\n")
    path = folder / "webhooks.toml"
    path.write_text("".join(f"[[webhook]]\n{entry}\n" for entry in entries).replace("{secret}", str(folder / "secret")))
    return path


def test_an_entry_says_who_is_told_of_what(tmp_path: Path) -> None:
    (webhook,) = read(write(tmp_path, GOOD + 'runs = ["prod-*", "x"]\nkinds = ["spike", "stalled"]\ninterval_s = 60'))
    assert webhook.wants("prod-llm", EventKind.SPIKE)
    assert webhook.wants("x", EventKind.STALLED)
    assert not webhook.wants("xy", EventKind.SPIKE)
    assert not webhook.wants("x", EventKind.NONFINITE)
    assert (webhook.interval_s, webhook.timeout_s, webhook.secrets()) == (60, 10, [b"0123456789abcdef"])


def test_an_entry_of_few_words_is_told_of_all_that_is_no_good_news(tmp_path: Path) -> None:
    (webhook,) = read(write(tmp_path, GOOD))
    assert {kind for kind in EventKind if not webhook.wants("any", kind)} == {EventKind.STARTED, EventKind.RECOVERED}
    assert webhook.kinds == DEFAULT_KINDS


def test_the_address_can_be_in_a_file_and_slack_needs_no_secret(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://hooks.slack.example/services/T0/B0/xyz\n")
    (webhook,) = read(write(tmp_path, f'name = "slack"\nformat = "slack"\nurl_file = "{tmp_path / "url"}"'))
    assert webhook.url == "https://hooks.slack.example/services/T0/B0/xyz"
    assert webhook.secrets() == []


def of(url: str) -> str:
    return GOOD.replace("https://hooks.example.org/T0/secret-part", url)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([GOOD.replace('"a"', '"A b"')], "a webhook's name must match"),
        ([GOOD, GOOD], "a is there twice"),
        ([GOOD + "url_file = '/nowhere'"], "give it either url or url_file"),
        (['name = "a"\nsecret_file = "{secret}"'], "give it either url or url_file"),
        (['name = "a"\nurl_file = "/nowhere/url"\nsecret_file = "{secret}"'], "/nowhere/url: No such file"),
        (['name = "a"\nurl = "https://hooks.example.org/T0/secret-part"'], "Give it a secret_file"),
        ([GOOD.replace("{secret}", "/nowhere/secret")], "/nowhere/secret: No such file"),
        ([GOOD.replace("{secret}", "/dev/null")], "must hold a secret of at least 16 bytes"),
        ([of("ftp://hooks.example.org/secret-part")], "must begin with https://"),
        ([of("https:///secret-part")], "must begin with https://"),
        ([of("https://hooks.example.org:port/secret-part")], "the url is none"),
        ([of(f"https://{'a' * 64}.example.org/secret-part")], "must have 1 to 63 characters: got host aaa"),
        ([of("https://hooks..example.org/secret-part")], "must have 1 to 63 characters: got host hooks..example.org"),
        ([of("http://hooks.example.org/secret-part")], "plain HTTP is for loopback only"),
        ([of("https://169.254.169.254/secret-part")], "link-local"),
        ([of("https://[fe80::1]/secret-part")], "link-local"),
        ([of("https://metadata.google.internal./secret-part")], "link-local"),
        ([GOOD + 'kinds = ["spikes"]'], "Invalid enum value 'spikes'"),
        ([GOOD + "interval_s = 0.1"], "interval_s must be 1 to 3600 seconds: got 0.1"),
        ([GOOD + "timeout_s = nan"], "timeout_s must be 0.1 to 60 seconds: got nan"),
        ([GOOD + "retries = 3"], "unknown field `retries`"),
        ([GOOD.replace('"a"', f'"w{at}"') for at in range(21)], "there can be 20 webhooks: got 21"),
        (["name = "], "must hold [[webhook]] tables"),
    ],
)
def test_what_is_refused_is_said_without_the_address(tmp_path: Path, entries: list[str], said: str) -> None:
    with pytest.raises(WebhookError, match=re.escape(said)) as refusal:
        read(write(tmp_path, *entries))
    assert "secret-part" not in str(refusal.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://localhost/x", "http://[::1]:9/x"])
def test_plain_http_is_good_on_loopback_and_where_the_file_says_so(tmp_path: Path, url: str) -> None:
    assert read(write(tmp_path, of(url)))[0].url == url
    assert read(write(tmp_path, of("http://hooks.internal/x") + "plain_http = true"))[0].plain_http


def test_a_server_with_a_file_that_is_not_there_does_not_start(tmp_path: Path, valkey: str) -> None:
    missing = tmp_path / "missing.toml"
    settings = ServerConfig(data=tmp_path, port=0, redis_url=valkey, webhooks_file=missing, log_level="warning")
    with pytest.raises(ServeError, match=r"missing\.toml: No such file or directory\. STEADYNORM_WEBHOOKS_FILE names"):
        serve(settings)


@pytest.mark.parametrize(
    ("host", "forbidden"),
    [
        ("169.254.169.254", True),
        ("::ffff:169.254.169.254", True),
        ("fe80::1%eth0", True),
        ("fd00:ec2::254", True),
        ("224.0.0.1", True),
        ("0.0.0.0", True),
        ("Metadata.Google.Internal", True),
        ("10.0.0.7", False),
        ("127.0.0.1", False),
        ("fd12::7", False),
        ("hooks.example.org", False),
    ],
)
def test_private_networks_are_good_and_link_local_ones_are_not(host: str, forbidden: bool) -> None:
    assert is_blocked_host(host) is forbidden


async def test_a_name_that_leads_to_a_metadata_address_is_sent_nothing() -> None:
    async with WebhookSender() as poster:  # an address that is no dotted quad passes for a name until it is looked up
        answer = await poster.post(Webhook(name="a", url="http://2852039166/x", format="slack"), "id", b"{}")
    assert answer.why == "its host resolves to 169.254.169.254, where nothing is sent"
    assert not answer.delivered


async def test_a_host_that_is_no_name_is_a_failed_attempt() -> None:
    async with WebhookSender() as poster:
        url = f"https://{'a' * 70}.example.org/secret-part"
        answer = await poster.post(Webhook(name="a", url=url, format="slack"), "id", b"{}")
    assert not answer.delivered
    assert answer.why == "its host is no name that can be looked up"


async def test_a_failure_is_told_without_the_address(unused_tcp_port: int) -> None:
    async with WebhookSender() as poster:
        url = f"http://127.0.0.1:{unused_tcp_port}/secret-part"
        answer = await poster.post(Webhook(name="a", url=url, format="slack"), "id", b"{}")
    assert not answer.delivered
    assert answer.why
    assert "secret-part" not in answer.why


def test_both_secrets_sign_while_one_is_exchanged() -> None:
    header = sign([b"old-secret", b"new-secret"], b"body", 1_700_000_000)
    assert header.count("v1=") == 2
    for secret in (b"old-secret", b"new-secret"):
        assert verify(header, b"body", secret, now=1_700_000_100)
    assert not verify(header, b"body", b"no-secret", now=1_700_000_100)
    assert not verify(header, b"body", b"old-secret", now=1_700_000_301)  # recorded, and sent again later
    assert not verify(header, b"body", b"old-secret", now=1_699_999_699)


@pytest.fixture
def genuine(root: Path) -> Callable[[str, bytes, bytes], bool]:
    """The documented lines."""
    page = (root / "docs" / "webhooks.md").read_text("utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(snippet, scope)
    found: Callable[[str, bytes, bytes], bool] = scope["genuine"]
    return found


STRANGE = [
    *("", "t=", "v1=", "t=x,v1=y", "t=-1,v1=a", "t=²,v1=a", "t={now},v1=é", "t={now},v1=\udcff", ",=,", "t", "v1=a"),
    *(f"t={'1' * digits},v1=00" for digits in (16, 400, 5000)),
]


@pytest.mark.parametrize("header", STRANGE, ids=lambda header: ascii(header[:12]))
def test_a_strangers_header_is_no_signature_and_raises_nothing(header: str) -> None:
    assert not verify(header.format(now=1_700_000_000), b"body", b"secret", now=1_700_000_000)


@pytest.mark.parametrize("header", STRANGE, ids=lambda header: ascii(header[:12]))
def test_the_documented_lines_raise_nothing_either(genuine: Callable[[str, bytes, bytes], bool], header: str) -> None:
    assert not genuine(header.format(now=int(time.time())), b"body", b"secret")


def test_the_documented_lines_verify_what_the_server_signs(genuine: Callable[[str, bytes, bytes], bool]) -> None:
    now = int(time.time())
    header = sign([b"secret", b"another"], b"body", now)
    assert genuine(header, b"body", b"secret")
    assert genuine(header, b"body", b"another")
    assert not genuine(header, b"Body", b"secret")
    assert not genuine(header, b"body", b"wrong")
    assert not genuine(sign([b"secret"], b"body", now - 301), b"body", b"secret")


def test_the_documented_file_is_one(root: Path, tmp_path: Path) -> None:
    page = (root / "docs" / "webhooks.md").read_text("utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "steadynorm-webhook").write_text("0123456789abcdef\n")
    (tmp_path / "slack-url").write_text("https://hooks.slack.example/services/x\n")
    path = tmp_path / "webhooks.toml"
    path.write_text(example.replace("/run/secrets", str(tmp_path)))
    assert [webhook.name for webhook in read(path)] == ["on-call", "slack"]
    table = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    documented = {name for cell in table for name in re.findall(r"`([a-z_]+)`", cell)}
    assert set(Webhook.__struct_fields__) <= documented
