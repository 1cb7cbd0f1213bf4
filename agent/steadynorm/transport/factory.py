"""Builds the parts that talk to the server from an agent's arguments."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence

import torch

from steadynorm.arguments import Arguments
from steadynorm.mailbox import Mailbox
from steadynorm.recording.recorder import Recorder
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.transport.http_client import HttpClient
from steadynorm.transport.publisher import Publisher
from steadynorm.transport.send_buffer import SendBuffer
from steadynorm.transport.settings_poller import SettingsPoller
from steadynorm_contract import __version__
from steadynorm_contract.telemetry import Parameter, RunRegistration


def build_publisher(
    given: Arguments, stabilizers: Sequence[GradientStabilizer], mailbox: Mailbox, world_size: int
) -> tuple[Recorder | None, Publisher | None]:
    """Recorder and publisher, both None without a server. Nothing is sent before the publisher's `start()`."""
    if given.server is None:
        return None, None
    registration = RunRegistration(
        name=given.run,
        run_id=given.run_id,
        world_size=world_size,
        parameters=_table(stabilizers),
        settings=given.settings,
        instance=secrets.token_hex(8),
        framework=f"torch {torch.__version__}",
        agent_version=__version__,
        host=socket.gethostname(),
        tags=given.tags,
        allow=None if given.allow is None else list(given.allow),
        detail_every=given.detail_every,
    )
    counts = [len(stabilizer.names) for stabilizer in stabilizers]
    recorder = Recorder(counts, [stabilizer.device for stabilizer in stabilizers])
    publisher = Publisher(
        given.server,
        HttpClient(given.server, given.token),
        SettingsPoller(HttpClient(given.server, given.token), mailbox),
        registration,
        recorder,
        mailbox,
        SendBuffer(given.buffer_bytes, sum(counts)),
    )
    return recorder, publisher


def _table(stabilizers: Sequence[GradientStabilizer]) -> list[Parameter]:
    return [
        Parameter(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for stabilizer in stabilizers
        for name, tensor in zip(stabilizer.names, stabilizer.parameters, strict=True)
    ]
