"""For tests of the agent: a small HTTP server with the agent's routes that fails on request, and a model to train."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import torch

from steadynorm_cli.ports import choose_port
from steadynorm_contract.codec import decode_batch, decode_registration, encode_json
from steadynorm_contract.settings import Settings, merge
from steadynorm_contract.telemetry import (
    AppliedReport,
    Desired,
    Registered,
    RunFinish,
    RunRegistration,
    TelemetryAck,
    TelemetryBatch,
)

DEADLINE_S = 20.0  # for what takes milliseconds on an idle machine
Response = tuple[int, bytes, dict[str, str]]


@dataclass
class StoredRun:
    """The server's state of one run."""

    registrations: list[RunRegistration] = field(default_factory=list)
    incarnation: int = 0
    acknowledged: int = 0
    last_sequences: dict[str | None, int] = field(default_factory=dict)  # by instance
    revision: int = 0
    settings: object = field(default_factory=Settings)
    batches: list[TelemetryBatch] = field(default_factory=list)
    reports: list[AppliedReport] = field(default_factory=list)
    finish: RunFinish | None = None

    @property
    def steps(self) -> list[int]:
        return [step for batch in self.batches if batch.scalars for step in batch.scalars.steps]

    @property
    def row_steps(self) -> list[int]:
        return [step for batch in self.batches if batch.rows for step in batch.rows.steps]

    def column(self, name: str) -> list[float]:
        return [value for batch in self.batches if batch.scalars for value in batch.scalars.column(name)]


class StubServer:
    """Holds runs in memory. `fault(method, path, body)` may respond instead."""

    def __init__(self, port: int = 0, runs: dict[str, StoredRun] | None = None) -> None:
        self.runs: dict[str, StoredRun] = {} if runs is None else runs
        self.requests: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.fault: Callable[[str, str, bytes], Response | None] = lambda method, path, body: None
        self.changed = threading.Condition()
        self.max_knobs = 64  # 0: a server of before
        self.pace_s = 0.05
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # http.server's name
                self.reply("POST", self.rfile.read(int(self.headers["Content-Length"])))

            def do_GET(self) -> None:  # http.server's name
                self.reply("GET", b"")

            def reply(self, method: str, body: bytes) -> None:
                status, data, headers = stub.respond(method, self.path, body, dict(self.headers))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
                pass

        class Server(ThreadingHTTPServer):
            def process_request_thread(self, request: Any, client_address: Any) -> None:
                stub._open.add(request)
                super().process_request_thread(request, client_address)
                stub._open.discard(request)

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # the agent ends its connections when it closes

        # One that the kernel gives to whoever connects could be gone before a killed server returns to it.
        self._server = Server(("127.0.0.1", port or choose_port("127.0.0.1", 0, 0, print)), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.closing = False
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def kill(self) -> None:
        """End as a killed process does, connections included."""
        self.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def run(self) -> StoredRun:
        """The only run."""
        (run,) = self.runs.values()
        return run

    def wait_for(self, condition: Callable[[], object], within_s: float = DEADLINE_S) -> None:
        """Wait until a request has made `condition` true. For conditions that no request changes use `wait_until`."""
        with self.changed:
            assert self.changed.wait_for(condition, within_s), "the condition did not become true in time"

    def change(self, **changes: object) -> int:
        """Change settings as an operator does: the next revision. Values are not validated."""
        with self.changed:
            run = self.run
            before = run.settings if isinstance(run.settings, dict) else msgspec.to_builtins(run.settings)
            run.settings, run.revision = {**before, **changes}, run.revision + 1
            self.changed.notify_all()
            return run.revision

    def respond(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> Response:
        path = urlsplit(target).path.removeprefix("/api/v1")
        with self.changed:
            self.requests.append((method, path, body, headers))
        try:
            return self.fault(method, path, body) or self.serve(target, body)
        finally:
            with self.changed:
                self.changed.notify_all()

    def serve(self, target: str, body: bytes) -> Response:
        """What a healthy server does."""
        path = urlsplit(target).path.removeprefix("/api/v1")
        with self.changed:
            if path == "/runs":
                return self._register(decode_registration(body))
            _, _, run_id, what = path.split("/")
            if run_id not in self.runs:
                return problem(404, "no such run")
            run, query = self.runs[run_id], parse_qs(urlsplit(target).query)
            return getattr(self, f"_{what}")(run, body, query)  # type: ignore[no-any-return]  # one of the three below

    def _register(self, registration: RunRegistration) -> Response:
        run_id = registration.run_id or ""
        settings = merge(registration.settings, registration.later_settings if self.max_knobs else {})
        run = self.runs.setdefault(run_id, StoredRun(settings=settings, revision=registration.applied_revision))
        if not run.registrations or run.registrations[-1].instance != registration.instance:
            run.incarnation, run.acknowledged = run.incarnation + 1, 0
        run.registrations.append(registration)
        previous = run.last_sequences.get(registration.previous_instance)
        registered = Registered(
            run_id, run.incarnation, run.acknowledged, self._desired(run), previous,
            max_scalars=256, max_knobs=self.max_knobs,
        )  # fmt: skip
        return json_response(registered, 201)

    def _telemetry(self, run: StoredRun, body: bytes, query: object) -> Response:
        batch = decode_batch(body)
        if batch.incarnation != run.incarnation:
            return problem(409, "a newer incarnation runs")
        if batch.sequence > run.acknowledged:
            assert batch.sequence == run.acknowledged + 1, "a batch was skipped"
            run.acknowledged = batch.sequence
            run.last_sequences[run.registrations[-1].instance] = batch.sequence
            run.batches.append(batch)
            run.reports += batch.applied
        return json_response(TelemetryAck(run.acknowledged, self._desired(run), self.pace_s))

    def _settings(self, run: StoredRun, body: bytes, query: dict[str, list[str]]) -> Response:
        after = int(query["after_revision"][0])
        self.changed.wait_for(lambda: run.revision > after or self.closing, float(query["wait"][0]))
        return json_response(self._desired(run))

    def _finish(self, run: StoredRun, body: bytes, query: object) -> Response:
        run.finish = msgspec.json.decode(body, type=RunFinish)
        return 204, b"", {}

    def _desired(self, run: StoredRun) -> Desired:
        return Desired(run.revision, run.settings)  # type: ignore[arg-type]  # tests send settings that break rules


def json_response(value: object, status: int = 200) -> Response:
    return status, encode_json(value), {"Content-Type": "application/json"}


def problem(status: int, detail: str, **headers: str) -> Response:
    body = json.dumps({"title": "No", "status": status, "detail": detail}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, body, {"Content-Type": "application/problem+json", **named}


class Training:
    """A small model with an optimizer, and data that depends on the seed and the step alone."""

    def __init__(self, seed: int = 0, make: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW) -> None:
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        self.optimizer = make(self.model.parameters(), lr=0.01)
        self.taken = 0

    def step(self, spike: float = 1.0) -> torch.Tensor:
        """One step. Returns the loss, not detached."""
        self.taken += 1
        generator = torch.Generator().manual_seed(self.taken)
        inputs = torch.randn(16, 6, generator=generator)
        labels = torch.randint(3, (16,), generator=generator)
        loss = torch.nn.functional.cross_entropy(self.model(inputs), labels)
        self.optimizer.zero_grad()
        (loss * spike).backward()
        self.optimizer.step()
        return loss

    def weights(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]


def rates_used(optimizer: Any) -> list[float]:
    """The first group's rate in each step, as the step itself finds it, and no hook does. For optimizers of torch."""
    seen: list[float] = []
    begin = optimizer._init_group

    def recorded(group: dict[str, Any], *args: Any) -> Any:
        if group is optimizer.param_groups[0]:
            seen.append(float(group["lr"]))
        return begin(group, *args)

    optimizer._init_group = recorded
    return seen


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for a condition that no event signals: polls every 5 ms."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.005)
