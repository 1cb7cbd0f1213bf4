"""How agent, command line and dashboard find the user's own server: files in `$STEADYNORM_HOME`.

`~/.steadynorm` by default. `token` (mode 0600) is the token of a server that has none configured; `server.json` holds
its address while it runs. The token is used for loopback addresses only, so that it is never sent to another machine.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import msgspec
from urllib3.util import parse_url

__all__ = ["DEFAULT_SERVER", "ServerAddress", "data_dir", "find_server", "find_token", "is_loopback"]

DEFAULT_SERVER = "http://127.0.0.1:8470"


class ServerAddress(msgspec.Struct, frozen=True):
    """Content of server.json."""

    server: str
    dashboard: str | None = None


def data_dir() -> Path:
    """`$STEADYNORM_HOME`, or `~/.steadynorm`. Not created here."""
    return Path(os.environ.get("STEADYNORM_HOME") or "~/.steadynorm").expanduser()


def is_loopback(url: str) -> bool:
    """Whether the host of `url` is this machine."""
    host = (parse_url(url).host or "").strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def find_server() -> ServerAddress:
    """`$STEADYNORM_SERVER`, else the server that runs on the data folder, else the default address."""
    if server := os.environ.get("STEADYNORM_SERVER"):
        return ServerAddress(server.rstrip("/"))
    try:
        return msgspec.json.decode((data_dir() / "server.json").read_bytes(), type=ServerAddress)
    except (OSError, msgspec.MsgspecError):
        return ServerAddress(DEFAULT_SERVER)


def find_token(server: str) -> str | None:
    """`$STEADYNORM_TOKEN`, else, for a server on loopback, the token in the data folder, else None."""
    if token := os.environ.get("STEADYNORM_TOKEN"):
        return token
    if not is_loopback(server):
        return None
    try:
        return (data_dir() / "token").read_text("ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
