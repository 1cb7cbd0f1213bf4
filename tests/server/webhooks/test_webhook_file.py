"""The webhooks file: what it may say, what is refused in words that help, and that no secret gets out."""

from __future__ import annotations

import base64
import re
import runpy
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Verifier
from tests.support.webhooks import is_genuine

from steadynorm_contract.events import EventKind
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import StartError
from steadynorm_server.runtime.serve import serve
from steadynorm_server.webhooks.config import DEFAULT_KINDS, Webhook, WebhookError, is_blocked_host, read
from steadynorm_server.webhooks.sender import WebhookSender, signed_headers

GOOD = 'name = "a"\nurl = "https://hooks.example.org/T0/secret-part"\nsecret_file = "{secret}"\n'


def write(folder: Path, *entries: str) -> Path:
    """A file of entries, in which {secret} stands for a good secret's file."""
    (folder / "secret").write_text("0123456789abcdef\n")
    path = folder / "webhooks.toml"
    path.write_text("".join(f"[[webhook]]\n{entry}\n" for entry in entries).replace("{secret}", str(folder / "secret")))
    return path


def test_an_entry_says_who_is_told_of_what(tmp_path: Path) -> None:
    (webhook,) = read(write(tmp_path, GOOD + 'runs = ["prod-*", "x"]\nkinds = ["spike", "stalled"]\ninterval_s = 60'))
    assert webhook.matches("prod-llm", EventKind.SPIKE)
    assert webhook.matches("x", EventKind.STALLED)
    assert not webhook.matches("xy", EventKind.SPIKE)
    assert not webhook.matches("x", EventKind.NONFINITE)
    assert (webhook.interval_s, webhook.timeout_s, webhook.keys()) == (60, 10, [b"0123456789abcdef"])


def test_an_entry_of_few_words_is_told_of_all_that_is_no_good_news(tmp_path: Path) -> None:
    (webhook,) = read(write(tmp_path, GOOD))
    silent = {EventKind.STARTED, EventKind.RECOVERED, EventKind.FALLING}
    assert {kind for kind in EventKind if not webhook.matches("any", kind)} == silent
    assert webhook.kinds == DEFAULT_KINDS


def test_the_address_can_be_in_a_file_and_slack_needs_no_secret(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://hooks.slack.example/services/T0/B0/xyz\n")
    (webhook,) = read(write(tmp_path, f'name = "slack"\nformat = "slack"\nurl_file = "{tmp_path / "url"}"'))
    assert webhook.url == "https://hooks.slack.example/services/T0/B0/xyz"
    assert webhook.keys() == []


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
        ([of("https://hooks.example.org:port/secret-part")], "the url is invalid"),
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
    with pytest.raises(StartError, match=r"missing\.toml: No such file or directory\. STEADYNORM_WEBHOOKS_FILE names"):
        serve(settings)


@pytest.mark.parametrize(
    ("host", "forbidden"),
    [
        ("169.254.169.254", True),
        ("::ffff:169.254.169.254", True),
        ("64:ff9b::a9fe:a9fe", True),
        ("2002:a9fe:a9fe::1", True),
        ("64:ff9b::808:808", False),
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
    async with WebhookSender() as sender:  # an address that is no dotted quad passes for a name until it is looked up
        result = await sender.send(Webhook(name="a", url="http://2852039166/x", format="slack"), "id", b"{}")
    assert result.detail == "its host resolves to 169.254.169.254, where nothing is sent"
    assert not result.delivered


async def test_a_host_that_is_no_name_is_a_failed_attempt() -> None:
    async with WebhookSender() as sender:
        url = f"https://{'a' * 70}.example.org/secret-part"
        result = await sender.send(Webhook(name="a", url=url, format="slack"), "id", b"{}")
    assert not result.delivered
    assert result.detail == "its host is not a valid host name"


async def test_a_failure_is_told_without_the_address(unused_tcp_port: int) -> None:
    async with WebhookSender() as sender:
        url = f"http://127.0.0.1:{unused_tcp_port}/secret-part"
        result = await sender.send(Webhook(name="a", url=url, format="slack"), "id", b"{}")
    assert not result.delivered
    assert result.detail
    assert "secret-part" not in result.detail


def test_a_secret_is_base64_after_its_prefix_or_else_the_key_itself(tmp_path: Path) -> None:
    key = bytes(range(32))
    encoded = base64.b64encode(key).decode()
    for line in (f"whsec_{encoded}", f"  whsec_{encoded.rstrip('=')}\t"):
        (tmp_path / "key").write_text(f"{line}\n\n{'0f' * 32}\n")  # the second as `openssl rand -hex 32` makes it
        (webhook,) = read(write(tmp_path, GOOD.replace("{secret}", str(tmp_path / "key"))))
        assert webhook.keys() == [key, b"0f" * 32]
    body, now = b'{"a": "\xc3\xa9"}', int(time.time())
    for receiver in (f"whsec_{encoded}", b"0f" * 32):  # what its receiver passes to the library
        headers = signed_headers(webhook.keys(), "an-id", body, now)
        assert Verifier(receiver).verify(body, headers) == {"a": "é"}


@pytest.mark.parametrize("line", ["whsec_not base64", "whsec_é", "whsec_", "whsec_c2hvcnQ="])
def test_a_secret_that_is_none_is_refused_with_the_command_that_makes_one(tmp_path: Path, line: str) -> None:
    (tmp_path / "key").write_text(line)
    with pytest.raises(WebhookError, match=r'`echo "whsec_\$\(openssl rand -base64 32\)"` makes one') as refusal:
        read(write(tmp_path, GOOD.replace("{secret}", str(tmp_path / "key"))))
    assert line.removeprefix("whsec_") == "" or line not in str(refusal.value)


def test_both_secrets_sign_while_one_is_exchanged() -> None:
    now = int(time.time())
    old, new, body = b"an-old-secret-key", b"a-new-secret-key!", b"body"
    headers = signed_headers([old, new], "an-id", body, now)
    assert headers["webhook-signature"].count("v1,") == 2
    for key in (old, new):
        assert is_genuine(headers, body, key)
    assert not is_genuine(headers, body, b"no-secret")
    assert not is_genuine(headers | {"webhook-id": "another"}, body, old)
    assert not is_genuine(signed_headers([old], "an-id", body, now - 302), body, old)  # recorded, and sent again later
    assert not is_genuine(signed_headers([old], "an-id", body, now + 310), body, old)


Genuine = Callable[[dict[str, str], bytes, "str | bytes"], bool]


@pytest.fixture
def genuine(root: Path) -> Genuine:
    """The documented lines."""
    scope = runpy.run_path(str(root / "docs" / "snippets" / "receive_webhook.py"))
    found: Genuine = scope["genuine"]
    return found


STRANGE = [
    {}, {"webhook-id": "x"}, *({"webhook-timestamp": moment} for moment in ("", "x", "-1", "²", "nan", "1" * 5000)),
    *(
        {"webhook-signature": value}
        for value in ("", "v1", "v1,", "v1,é", "v1,\udcff", "v1,a,b", ",", " ", "v2,AAAA", "v1,AAAA v1,=")
    ),
]  # fmt: skip


@pytest.mark.parametrize("strange", STRANGE, ids=lambda headers: ascii(headers)[:40])
def test_the_documented_lines_refuse_a_strangers_headers_and_raise_nothing(
    genuine: Genuine, strange: dict[str, str]
) -> None:
    signed = signed_headers([b"secret"], "an-id", b"body", int(time.time()))
    assert genuine(signed, b"body", b"secret")
    headers = {**signed, "webhook-signature": "v1,AAAA", **strange} if strange else {}
    assert not genuine(headers, b"body", b"secret")
    assert not genuine(headers, b"\xff", b"secret")


def test_the_documented_lines_verify_what_the_server_signs(genuine: Genuine) -> None:
    now = int(time.time())
    headers = signed_headers([b"secret", b"another"], "an-id", b"body", now)
    assert genuine(headers, b"body", b"secret")
    assert genuine({name.title(): value for name, value in headers.items()}, b"body", b"another")
    assert not genuine(headers, b"Body", b"secret")
    assert not genuine(headers, b"body", b"wrong")
    assert not genuine(signed_headers([b"secret"], "an-id", b"body", now - 302), b"body", b"secret")


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
