"""Run the server in this process until SIGINT or SIGTERM."""

import contextlib
import errno
import gc
import logging
import math
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import msgspec
import uvicorn
from fastapi import FastAPI

from steadynorm_contract.discovery import (
    ELSEWHERE,
    OwnServer,
    data_dir,
    is_loopback,
    listener_url,
    own_server,
    read_address,
)
from steadynorm_server import audit_log
from steadynorm_server.app import create_app
from steadynorm_server.auth import proxy
from steadynorm_server.auth.tokens import Tokens, local_token
from steadynorm_server.config import ServerConfig, misspelled
from steadynorm_server.errors import StartError
from steadynorm_server.middleware.peer import with_peer
from steadynorm_server.redis.address import StoreAddress
from steadynorm_server.runtime import store_report
from steadynorm_server.runtime.embedded_redis import embedded_redis_server
from steadynorm_server.runtime.http_protocol import with_header_timeout
from steadynorm_server.runtime.workers import shared_socket, supervise
from steadynorm_server.webhooks.config import read_webhooks

_log = logging.getLogger(__name__)

KEEP_ALIVE_S = 95
"""How long a connection may be idle: longer than an agent's pace, and than proxies keep one that they will use again
(nginx and AWS 60 s, Traefik 90 s): what they send just as it closes is lost.
"""


def serve(config: ServerConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises StartError when it cannot start.

    Starts the embedded Redis in <data>/redis unless there is a redis_url. Writes <data>/server.json when it is ready
    and removes it at the end.
    """
    data = config.data.expanduser()
    unwritable: tuple[type[OSError], ...] = ()
    try:
        tokens, token = _tokens(config, data)
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if not config.redis_url or Tokens.configured(config) is None:
            raise StartError(f"{error.filename}: {error.strerror}. Choose another folder with --data.") from error
    if config.redis_url and token is None:
        unwritable = (OSError,)  # nothing is kept, so a container needs no folder that can be written
    _require_encryption(config)
    read_webhooks(config)
    for line in [*misspelled(os.environ), *proxy.findings(config)]:
        _log.warning("%s", line)
    audit_log.configure(config.audit_log)
    if config.redis_url:
        StoreAddress.parse(config.redis_url)  # before anything is started
    shared, port = config.workers > 1, config.port
    if shared:  # an address in use by others must be found before: workers could share it
        with _listen(config.host, port, shared=False) as probe:
            port = probe.getsockname()[1]
    with _listen(config.host, port, shared) as listener, _redis(config, data) as redis_url:
        host, port = listener.getsockname()[:2]
        address = listener_url(host, port, "https" if config.tls_cert else "http")
        store_report.report(config, redis_url)
        file = data / "server.json"

        def ready() -> None:
            own = OwnServer(
                address, config.dashboard_url, data=str(data.absolute()), pid=os.getpid(), host=socket.gethostname()
            )
            with contextlib.suppress(*unwritable):
                _write(file, msgspec.json.encode(own))
            _announce(config, data, address, token, found=_tell_home(own))

        try:
            if shared:  # this socket is bound, which reserves the port, and never listens
                supervise(_work, config.model_copy(update={"port": port}), redis_url, ready)
            else:
                _run(config, listener, redis_url, tokens, ready)
        finally:
            _remove(data, address)


def _work(config: ServerConfig, redis_url: str, ready: Callable[[], None]) -> None:
    """The main function of each of several workers."""
    try:
        tokens, _ = _tokens(config, config.data.expanduser())
        with _listen(config.host, config.port, shared=True) as listener:
            _run(config, listener, redis_url, tokens, ready)
    except (StartError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


def _tokens(config: ServerConfig, data: Path) -> tuple[Tokens, str | None]:
    """The valid tokens, and the user's own one where none are configured."""
    if (configured := Tokens.configured(config)) is not None:
        return configured, None
    if not config.is_local:
        raise StartError(
            f"without configured tokens the server listens on loopback only: got host {config.host}. "
            "Set STEADYNORM_OPERATOR_TOKEN and STEADYNORM_AGENT_TOKEN (or STEADYNORM_TOKENS_FILE), or use 127.0.0.1."
        )
    token = local_token(data)
    return Tokens.single(token), token


def _require_encryption(config: ServerConfig) -> None:
    """Requests carry tokens: beyond this machine they must be encrypted. Raises StartError."""
    cert, key = config.tls_cert, config.tls_key
    if (cert is None) != (key is None):
        raise StartError(
            "a certificate and its key belong together: set both STEADYNORM_TLS_CERT and STEADYNORM_TLS_KEY."
        )
    if cert is not None and key is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            raise StartError(f"{cert} and {key} must be a certificate and its key, as PEM files: {error}.") from error
    elif not config.tls and not config.is_local:
        raise StartError(
            f"plain HTTP is for loopback only, since requests carry tokens: got host {config.host}. Put a proxy that "
            "terminates TLS in front and set STEADYNORM_TLS=terminated, or let the server use TLS with "
            "STEADYNORM_TLS_CERT and STEADYNORM_TLS_KEY, or use 127.0.0.1."
        )


@contextlib.contextmanager
def _listen(host: str, port: int, shared: bool) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's algorithm only for sockets of IPPROTO_TCP; with it every response takes 40 ms.
    made = shared_socket(family) if shared else socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with made as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            used = error.errno == errno.EADDRINUSE
            advice = "Stop the process that uses it, or choose another with --port (0: any free one)." if used else ""
            raise StartError(f"cannot listen on {host} port {port}: {error.strerror}. {advice}".rstrip()) from error
        yield listener


@contextlib.contextmanager
def _redis(config: ServerConfig, data: Path) -> Iterator[str]:
    if config.redis_url:
        yield config.redis_url
        return
    with embedded_redis_server(data / "redis") as url:
        yield url


class _Server(uvicorn.Server):
    """Uvicorn, which reports when it is ready, drains on SIGTERM, and ends long-polls when it stops."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, ready: Callable[[], None], drain_s: float) -> None:
        super().__init__(config)
        self._app, self._ready, self._drain_s = app, ready, drain_s
        self._closes_at: float | None = None  # monotonic seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it, then report that it is ready."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does it, without raising the signal again afterwards, which would end us before we cleaned up."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {sign: signal.signal(sign, self.handle_exit) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sign, handler in previous.items():
                signal.signal(sign, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn does it, after the drain; an open long-poll would delay the shutdown."""
        if sig == signal.SIGTERM and self._drain_s and self.started and self._closes_at is None:
            self._closes_at = time.monotonic() + self._drain_s
            self._app.state.draining = True
            return
        if (stopping := getattr(self._app.state, "stopping", None)) is not None:  # else it has not begun to serve
            stopping.set()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """As uvicorn does it, ten times a second."""
        if self._closes_at is not None and time.monotonic() >= self._closes_at:
            self._closes_at = math.inf
            self.handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)


def uvicorn_options(config: ServerConfig, app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves `app`."""
    return uvicorn.Config(
        with_peer(app),
        proxy_headers=False,  # see with_peer
        log_config=None,  # see `logging`
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=config.shutdown_after_s,
        server_header=False,
        ssl_certfile=config.tls_cert,
        ssl_keyfile=config.tls_key,
        http=with_header_timeout(config.request_within_s / 3),
        ws="none",
        limit_concurrency=config.max_connections,
        timeout_keep_alive=KEEP_ALIVE_S,
        lifespan="on",
    )


def _run(
    config: ServerConfig, listener: socket.socket, redis_url: str, tokens: Tokens, ready: Callable[[], None]
) -> None:
    app = create_app(config, redis_url, tokens)
    options = uvicorn_options(config, app)
    tune_garbage_collection()
    server = _Server(options, app, ready, config.drain_seconds)
    server.run([listener])
    if not server.started:
        raise StartError("the server did not start; the reason is logged above.")


def tune_garbage_collection() -> None:
    """Collect less often in a process in which thousands of requests wait, since each collection visits them all.

    Cycles are rare here and small, so ten times as many objects may be allocated in between.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 50)


def _tell_home(own: OwnServer) -> bool:
    """Leave the address where this user's tools look. Returns whether they find this server."""
    home = data_dir()
    if home.absolute() != Path(own.data) and is_loopback(own.server) and own_server() is None:
        with contextlib.suppress(OSError):  # a home that cannot be written: the announcement says what to do
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(home / ELSEWHERE, msgspec.json.encode(own))
    found = own_server()
    return found is not None and found.server == own.server


def _announce(config: ServerConfig, data: Path, address: str, token: str | None, *, found: bool) -> None:
    query = f"?token={token}" if token else ""
    print(f"steadynorm server at {address}", file=sys.stderr)
    if config.dashboard_url:
        print(f"  dashboard  {config.dashboard_url.rstrip('/')}/{query}", file=sys.stderr)
    if token:
        how = "tools of this user find it themselves" if found else f"for tools: export STEADYNORM_HOME={data}"
        print(f"  token      {data / 'token'}: {how}", file=sys.stderr)
    print(f"  API        {address}/docs", file=sys.stderr)
    sys.stderr.flush()


def _write(file: Path, content: bytes) -> None:
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(file)  # atomic: readers never see half a file


def _remove(data: Path, address: str) -> None:
    """Remove our server.json, not that of a server that has taken over the folder."""
    if (found := read_address(data)) is not None and found.server == address:
        with contextlib.suppress(OSError):
            (data / "server.json").unlink()
    elsewhere = data_dir() / ELSEWHERE
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        if msgspec.json.decode(elsewhere.read_bytes(), type=OwnServer).server == address:
            elsewhere.unlink()
