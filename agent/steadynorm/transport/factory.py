"""Builds the parts that talk to the server from an agent's arguments."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import zlib
from collections.abc import Callable, Mapping, Sequence

import torch

from steadynorm.arguments import Arguments
from steadynorm.faults import ErrorState
from steadynorm.job_ids import job_ids
from steadynorm.mailbox import Mailbox
from steadynorm.recording.recorder import Recorder
from steadynorm.recovery.contents import Contents
from steadynorm.recovery.control import RecoveryControl
from steadynorm.recovery.watch import PERIOD_S as WATCH_PERIOD_S
from steadynorm.recovery.watch import RecorderWatch, Watch
from steadynorm.run_environment import EnvironmentReader
from steadynorm.sink_feed import SinkFeed
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.step_boundary import StepBoundary
from steadynorm.transport.http_client import HttpClient
from steadynorm.transport.publisher import Publisher
from steadynorm.transport.send_buffer import SendBuffer
from steadynorm.transport.server_version import KnownServer
from steadynorm.transport.settings_poller import SettingsPoller
from steadynorm_contract import __version__
from steadynorm_contract.codec import encodable, encode_json
from steadynorm_contract.knobs import is_knob
from steadynorm_contract.settings import LATER_SETTINGS
from steadynorm_contract.telemetry import (
    MAX_REGISTRATION_BYTES,
    MAX_TEXT_LENGTH,
    Parameter,
    RunRegistration,
    SpikeReference,
)

_log = logging.getLogger("steadynorm")

_ENVELOPE_BYTES = 256 * 1024  # of a registration, beside its parameters and tags


def build_publisher(
    given: Arguments,
    stabilizers: Sequence[GradientStabilizer],
    mailbox: Mailbox,
    world_size: int,
    report: Callable[[str, str], None],
) -> tuple[Recorder | None, Publisher | None]:
    """Recorder and publisher, both None without a server. Nothing is sent before the publisher's `start()`.

    report: see `Collector.report_to`.
    """
    if given.server is None:
        return None, None
    host = socket.gethostname()
    tags = {**job_ids(os.environ, host), **given.tags}  # what the user says wins
    reader = EnvironmentReader(map(_device_name, stabilizers)) if given.record_environment else None
    registration = RunRegistration(
        name=given.run,
        run_id=given.run_id,
        world_size=world_size,
        parameters=_table(stabilizers, tags),
        settings=given.settings,
        instance=secrets.token_hex(8),
        framework=f"torch {torch.__version__}",
        agent_version=__version__,
        host=host,
        tags=tags,
        allow=None if given.allow is None else [name for name in given.allow if not _is_later(name)],
        later_allow=[name for name in given.allow or () if _is_later(name)],
        spike_reference=SpikeReference.BASELINE,
        detail_every=given.settings.detail_every,
        config=given.config,
        environment={} if reader is None else reader.facts,
    )
    recorder, known = build_recorder(stabilizers), KnownServer()
    publisher = Publisher(
        given.server,
        HttpClient(given.server, given.token, known),
        SettingsPoller(HttpClient(given.server, given.token, known), mailbox),
        registration,
        recorder,
        mailbox,
        SendBuffer(given.buffer_bytes, sum(len(stabilizer.names) for stabilizer in stabilizers)),
    )
    publisher.collector.report_to(report)
    if reader is not None:
        publisher.prepare = reader.wait
    return recorder, publisher


def _is_later(name: str) -> bool:
    return is_knob(name) or name in LATER_SETTINGS


def _device_name(stabilizer: GradientStabilizer) -> str:
    device = stabilizer.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def build_recovery(
    given: Arguments,
    stabilizers: Sequence[GradientStabilizer],
    boundary: StepBoundary,
    mailbox: Mailbox,
    errors: ErrorState,
    recorder: Recorder | None,
    publisher: Publisher | None,
    place: tuple[int, int],
    report: Callable[[str, str], None],
) -> tuple[RecoveryControl | None, RecorderWatch | None, Recorder | None]:
    """Recovery; what feeds its detectors where nothing is sent; and the recorder. place: this rank, and how many.

    Detectors are on rank 0: with a server, its publisher gives them each step that it collects.
    """
    if (recovery := given.recovery) is None:
        return None, None, recorder
    rank, size = place
    watch, thread = None, None
    if rank == 0:
        watch = Watch(
            recovery.conditions(),
            recovery.confirm,
            recovery.every_steps,
            defaults=recovery.detectors is None,
            report=report,
        )
    if watch is not None and publisher is not None:
        publisher.collector.give(watch, WATCH_PERIOD_S)
    elif watch is not None:
        recorder = recorder or build_recorder(stabilizers)
        thread = RecorderWatch(recorder, watch, mailbox)
    contents = Contents(recovery, given.model, given.optimizers, stabilizers)
    control = RecoveryControl(
        recovery,
        contents,
        boundary,
        mailbox,
        errors,
        watch,
        all_ranks=size > 1,
        resumable=given.server is not None,
        start_watch=None if thread is None else thread.start,
    )
    return control, thread, recorder


def build_sinks(
    given: Arguments,
    stabilizers: Sequence[GradientStabilizer],
    mailbox: Mailbox,
    publisher: Publisher | None,
    recorded: tuple[RecorderWatch | None, Recorder | None],
    report: Callable[[str, str], None],
) -> tuple[SinkFeed | None, RecorderWatch | None, Recorder | None]:
    """On rank 0: the sinks; and, where nothing is sent, what collects records for them. recorded: of recovery."""
    watch, recorder = recorded
    if not given.sinks:
        return None, watch, recorder
    feed = SinkFeed(
        given.sinks, [name for stabilizer in stabilizers for name in stabilizer.names], given.settings, report
    )
    if publisher is not None:
        feed.environment, feed.prepare = publisher.registration.environment, publisher.prepare
    else:
        recorder = recorder or build_recorder(stabilizers)
        watch = watch or RecorderWatch(recorder, None, mailbox)
        watch.looks_at_last, feed.start_watch = True, watch.start
        if given.record_environment:
            reader = EnvironmentReader(map(_device_name, stabilizers))
            feed.environment, feed.prepare = reader.facts, reader.wait
    if recorder is not None:
        recorder.on_first, recorder.on_collected = feed.start, feed.collected
    mailbox.on_message, mailbox.sinks_dropped = feed.told, lambda: feed.dropped
    return feed, watch, recorder


def build_recorder(stabilizers: Sequence[GradientStabilizer]) -> Recorder:
    """What steps are recorded in."""
    counts = [len(stabilizer.names) for stabilizer in stabilizers]
    return Recorder(counts, [stabilizer.device for stabilizer in stabilizers])


def _table(stabilizers: Sequence[GradientStabilizer], tags: Mapping[str, str]) -> list[Parameter]:
    """The run's parameters. Raises ValueError where no server would take them."""
    table = [
        Parameter(_recorded_name(name), tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for stabilizer in stabilizers
        for name, tensor in zip(stabilizer.names, stabilizer.parameters, strict=True)
    ]
    longest = max((name for stabilizer in stabilizers for name in stabilizer.names), key=len)
    if len(longest) > MAX_TEXT_LENGTH:
        _log.warning(
            "names of parameters are recorded with at most %d characters: got %.40s... with %d. They are "
            "shortened, and end in a hash.",
            *(MAX_TEXT_LENGTH, longest, len(longest)),
        )
    size_bytes = len(encode_json([table, tags])) + _ENVELOPE_BYTES
    if size_bytes > MAX_REGISTRATION_BYTES:
        raise ValueError(
            f"names and shapes of the parameters must take at most {MAX_REGISTRATION_BYTES} bytes: got {size_bytes} "
            f"for {len(table)} parameters. Shorten the names of the model's modules, or attach without a server."
        )
    return table


def _recorded_name(name: str) -> str:
    """As a server takes it."""
    text = encodable(name)
    if text == name and len(text) <= MAX_TEXT_LENGTH:
        return name
    return f"{text[: MAX_TEXT_LENGTH - 9]}~{zlib.crc32(name.encode('utf-8', 'backslashreplace')):08x}"
