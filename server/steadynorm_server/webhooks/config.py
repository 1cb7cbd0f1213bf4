"""The webhooks file: which events are sent where, in TOML.

    [[webhook]]
    name = "on-call"
    url = "https://alerts.example.org/steadynorm"
    secret_file = "/run/secrets/steadynorm-webhook"     # one secret per line; two during a rotation
    runs = ["prod-*"]                                   # patterns of run names; default: all
    kinds = ["nonfinite", "stalled"]                    # default: all but started and recovered

    [[webhook]]
    name = "slack"
    format = "slack"                                    # also Mattermost, Rocket.Chat, Discord's /slack
    url_file = "/run/secrets/slack-url"                 # for an address that is a secret itself
    interval_s = 30                                     # at most one message in so many seconds; default 10

    [[webhook]]
    name = "siem"
    audit = true                                        # lines of the audit stream in place of events
    url = "https://siem.example.org/steadynorm"
    secret_file = "/run/secrets/siem"

A secret is `whsec_` and the key in base64, the format of Standard Webhooks (`echo "whsec_$(openssl rand -base64 32)"`).
Any other line is the key itself, byte for byte: `openssl rand -hex 32` makes a key of 64 bytes, the hexadecimal digits,
which a receiver passes to the library as bytes. White space around a secret, as the newline at the end of the file,
does not belong to it.

Only who runs the server writes the file: no request can name an address. docs/webhooks.md describes each key.
"""

import base64
import ipaddress
import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from steadynorm_contract.discovery import is_loopback
from steadynorm_contract.events import EventKind
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import StartError

_METADATA = {
    "metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal",
    "fd00:ec2::254", "100.100.100.200", "168.63.129.16",
}  # fmt: skip


def host_of(url: str) -> tuple[str, int]:
    """Host and port of an http:// or https:// address. Raises ValueError."""
    parts = urlsplit(url)
    return (parts.hostname or "").rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address to which a gateway or the kernel passes on what goes to this one."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def is_blocked_host(host: str) -> bool:
    """Whether no message may go to a host, given as a name or an address: link-local, multicast, cloud metadata."""
    if host.lower() in _METADATA:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and (inside := _inside(address)) is not None:
        return is_blocked_host(str(inside))
    return address.is_link_local or address.is_multicast or address.is_unspecified


DEFAULT_KINDS = frozenset(EventKind) - {EventKind.STARTED, EventKind.RECOVERED, EventKind.FALLING}
MAX_WEBHOOKS = 20
_MIN_KEY_BYTES = 16
_SECRET_PREFIX = b"whsec_"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


class WebhookError(StartError):
    """The webhooks file cannot be used. The text says why and how to fix it."""


class Webhook(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One entry of the file, checked."""

    name: str
    url: str = ""
    url_file: Path | None = None
    secret_file: Path | None = None
    format: Literal["json", "slack"] = "json"
    runs: tuple[str, ...] = ("*",)
    kinds: frozenset[EventKind] = DEFAULT_KINDS
    audit: bool = False
    interval_s: float = 10.0
    timeout_s: float = 10.0
    plain_http: bool = False

    def matches(self, run: str, kind: EventKind) -> bool:
        """Whether it is sent events of this kind of a run with this name."""
        return not self.audit and kind in self.kinds and any(fnmatchcase(run, pattern) for pattern in self.runs)

    def keys(self) -> list[bytes]:
        """The keys that sign its messages, read from the file each time. Raises WebhookError."""
        if self.secret_file is None:
            return []
        try:
            keys = [_key(line) for line in _lines(self.name, self.secret_file)]
        except ValueError:
            keys = []
        if not keys or min(map(len, keys)) < _MIN_KEY_BYTES:
            raise WebhookError(
                f"webhook {self.name}: {self.secret_file} must hold a secret of at least {_MIN_KEY_BYTES} bytes on "
                "each line: whsec_ and the key in base64, or, without whsec_, the key itself. "
                '`echo "whsec_$(openssl rand -base64 32)"` makes one.'
            )
        return keys


class _File(msgspec.Struct, forbid_unknown_fields=True):
    webhook: list[Webhook] = []


def read_webhooks(settings: ServerConfig) -> list[Webhook]:
    """The webhooks that a server is configured with. Raises WebhookError."""
    return read(settings.webhooks_file) if settings.webhooks_file else []


def read(path: Path) -> list[Webhook]:
    """The webhooks of a file, each with its url. Raises WebhookError."""
    try:
        entries = msgspec.convert(tomllib.loads(path.read_text("utf-8")), _File, dec_hook=_path).webhook
    except OSError as error:
        raise WebhookError(f"{path}: {error.strerror}. STEADYNORM_WEBHOOKS_FILE names it.") from error
    except ValueError as error:  # TOML's, UTF-8's and msgspec's
        raise WebhookError(f"{path} must hold [[webhook]] tables: {error}. See docs/webhooks.md.") from error
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise WebhookError(f"webhook names must be unique: {', '.join(twice)} is there twice.")
    if len(entries) > MAX_WEBHOOKS:
        raise WebhookError(
            f"there can be {MAX_WEBHOOKS} webhooks: got {len(entries)}. Let a receiver forward messages."
        )
    return [_checked(entry) for entry in entries]


def _checked(entry: Webhook) -> Webhook:
    if not _NAME.fullmatch(entry.name):
        raise WebhookError(f"a webhook's name must match {_NAME.pattern}: got {entry.name!r}.")
    if bool(entry.url) == (entry.url_file is not None):
        raise WebhookError(f"webhook {entry.name}: give it either url or url_file.")
    if entry.url_file is not None:
        lines = _lines(entry.name, entry.url_file)
        entry = msgspec.structs.replace(entry, url=lines[0].decode("utf-8", "replace") if lines else "")
    _check_url(entry)
    if entry.audit and entry.kinds != DEFAULT_KINDS:
        raise WebhookError(f"webhook {entry.name}: kinds are of events, which one with audit = true is not sent.")
    if entry.format == "json" and entry.secret_file is None:
        raise WebhookError(
            f"webhook {entry.name}: its receiver must be able to verify its messages. Give it a secret_file."
        )
    entry.keys()
    for name, value, least, most in (
        ("interval_s", entry.interval_s, 1, 3600),
        ("timeout_s", entry.timeout_s, 0.1, 60),
    ):
        if not least <= value <= most:
            raise WebhookError(f"webhook {entry.name}: {name} must be {least} to {most} seconds: got {value:g}.")
    return entry


def _check_url(entry: Webhook) -> None:
    """No error message contains the address, since it can be a secret."""
    try:
        parts = urlsplit(entry.url)
        host, _ = host_of(entry.url)
    except ValueError as error:
        raise WebhookError(f"webhook {entry.name}: the url is invalid: {error}.") from error
    if parts.scheme not in ("http", "https") or not host:
        raise WebhookError(f"webhook {entry.name}: the url must begin with https:// and name a host.")
    try:
        (parts.hostname or "").encode("idna")
    except UnicodeError as error:
        raise WebhookError(
            f"webhook {entry.name}: a host's labels, between the dots, must have 1 to 63 characters: got host {host}. "
            "Is there a dot too many or too few?"
        ) from error
    if parts.scheme == "http" and not is_loopback(entry.url) and not entry.plain_http:
        raise WebhookError(
            f"webhook {entry.name}: plain HTTP is for loopback only, since anyone on the path can read it: got host "
            f"{host}. Write https://, or plain_http = true on a network that is yours alone."
        )
    if is_blocked_host(host):
        raise WebhookError(f"webhook {entry.name}: {host} is a link-local, multicast or metadata address; use another.")


def _key(line: bytes) -> bytes:
    if not line.startswith(_SECRET_PREFIX):
        return line
    encoded = line.removeprefix(_SECRET_PREFIX).rstrip(b"=")
    return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)


def _lines(name: str, path: Path) -> list[bytes]:
    try:
        return [line.strip() for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise WebhookError(f"webhook {name}: {path}: {error.strerror}.") from error


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value).expanduser()
    raise TypeError(f"expected a path, got {value!r}")
