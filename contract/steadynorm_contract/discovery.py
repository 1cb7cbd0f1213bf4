"""How agent, command line and dashboard find the user's own server: files in `$STEADYNORM_HOME`.

`~/.steadynorm` by default. `token` (mode 0600) is the token of a server that has none configured; `server.json` holds
its address while it runs. A server on another data folder leaves its address in `server-elsewhere.json`. The token is
used for loopback addresses only, so that it is never sent to another machine.
"""

import ipaddress
import os
import socket
from pathlib import Path

import msgspec
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

__all__ = [
    "DEFAULT_SERVER",
    "ELSEWHERE",
    "OwnServer",
    "ServerAddress",
    "attach_lines",
    "check_address",
    "data_dir",
    "find_server",
    "find_token",
    "is_loopback",
    "is_service_link",
    "listener_url",
    "own_server",
    "read_address",
]

DEFAULT_SERVER = "http://127.0.0.1:8470"


def check_address(server: str) -> str:
    """The address of a server without a trailing slash. Raises ValueError for what is none."""
    try:
        url = parse_url(server)
    except LocationParseError:
        url = None
    if url is None or url.scheme not in ("http", "https") or not url.host or url.query or url.fragment or url.auth:
        raise ValueError(
            f"server must be an address such as {DEFAULT_SERVER}: got {server!r}. "
            "Use a scheme (http or https), a host and a port, without credentials or a query."
        )
    return server.rstrip("/")


class ServerAddress(msgspec.Struct, frozen=True):
    """Content of server.json."""

    server: str
    dashboard: str | None = None


ELSEWHERE = "server-elsewhere.json"
"""In the home folder: the address of a server that runs on another data folder."""


class OwnServer(ServerAddress, frozen=True, kw_only=True):
    """What a server writes into server.json, and into ELSEWHERE.

    data: its data folder, which has its token. pid, host: of its process, to tell whether it lives.
    """

    data: str
    pid: int
    host: str

    @property
    def is_alive(self) -> bool:
        """Whether the process exists on this machine."""
        if self.host != socket.gethostname():
            return False
        if os.name != "posix":  # there, signal 0 would end it
            return True
        try:
            os.kill(self.pid, 0)
        except OSError:  # gone, or somebody else's
            return False
        return True


def own_server() -> OwnServer | None:
    """The server of this user that runs on this machine; None where there is none.

    It is used without being asked for, so it has to listen on loopback, and its file has to be this user's.
    """
    for name in ("server.json", ELSEWHERE):
        file = data_dir() / name
        try:
            found = msgspec.json.decode(file.read_bytes(), type=OwnServer)
            owned = not hasattr(os, "getuid") or file.stat().st_uid == os.getuid()
        except (OSError, msgspec.MsgspecError):
            continue
        if owned and is_loopback(found.server) and found.is_alive:
            return found
    return None


def attach_lines(server: str) -> str:
    """The two lines that record a training script at `server`."""
    own = own_server()
    where = "" if own is not None and own.server == server.rstrip("/") else f', server="{server}"'
    return f'import steadynorm\nagent = steadynorm.attach(model, optimizer, run="my-run"{where})'


def read_address(folder: Path) -> ServerAddress | None:
    """Content of server.json in a data folder; None where no server runs on it."""
    try:
        return msgspec.json.decode((folder / "server.json").read_bytes(), type=ServerAddress)
    except (OSError, msgspec.MsgspecError):
        return None


def listener_url(host: str, port: int, scheme: str = "http") -> str:
    """The address at which this machine reaches a program that listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"


def is_service_link(value: object) -> bool:
    """Whether Kubernetes set a variable to this for a Service that happens to have our name: `tcp://10.3.104.46:8470`."""
    return isinstance(value, str) and value.startswith("tcp://")


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
    """`$STEADYNORM_SERVER`, else the user's own server, else the default address."""
    if server := os.environ.get("STEADYNORM_SERVER"):
        return ServerAddress(server.rstrip("/"))
    return own_server() or read_address(data_dir()) or ServerAddress(DEFAULT_SERVER)


def find_token(server: str) -> str | None:
    """`$STEADYNORM_TOKEN`, else, for a server on loopback, the token in its data folder, else None."""
    if token := os.environ.get("STEADYNORM_TOKEN"):
        return token
    if not is_loopback(server):
        return None
    own = own_server()
    folder = Path(own.data) if own is not None and own.server == server.rstrip("/") else data_dir()
    try:
        return (folder / "token").read_text("ascii").strip() or None
    except (OSError, UnicodeError):  # also a path that this locale cannot write
        return None
