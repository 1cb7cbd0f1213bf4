"""One small asynchronous all-reduce, in which each rank fills only its own bytes.

Rank 0 fills the broadcast: the settings that the server desires, and whether all ranks wait. Every rank fills a status.
Bytes that no other rank fills are their own sum, so one collective is a broadcast and a gather at once.
"""

from __future__ import annotations

import ctypes
import struct
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec
import torch
import torch.distributed as dist

from steadynorm.mailbox import InvalidSettings, SettingsUpdate
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import Desired

BROADCAST_BYTES = 2048
MAX_REASON_LENGTH = 300  # characters
CLOSE_S = 2.0  # wait for an exchange that is in progress when the agent closes

_LENGTH = struct.Struct("<i")
_STATUS = struct.Struct("<??xxIIdd")


class RankStatus(NamedTuple):
    """What every rank reports of itself."""

    failed: bool = False  # its agent met an internal error
    closing: bool = False  # its agent is being closed: no rank may wait any longer
    names: int = 0  # hash of its parameters' names: only ranks with the same ones are compared by norms
    settings: int = 0  # hash of what is in force
    norms: float = float("nan")  # fingerprints of its newest norms and statistics; NaN: none is due
    statistics: float = float("nan")


class SettingsBroadcast(msgspec.Struct, frozen=True):
    """What rank 0 sends. settings None: no update, or, with a revision, `reason` says why it cannot be read."""

    revision: int = 0
    settings: Settings | None = None
    reason: str = ""
    wait: bool = False  # all ranks wait at this boundary for the next broadcast

    @staticmethod
    def of(update: SettingsUpdate | None, *, wait: bool) -> SettingsBroadcast:
        """An update as a broadcast."""
        if update is None:
            return SettingsBroadcast(wait=wait)
        if isinstance(update, InvalidSettings):
            return SettingsBroadcast(update.revision, None, update.reason[:MAX_REASON_LENGTH], wait)
        return SettingsBroadcast(update.revision, update.settings, "", wait)

    @property
    def update(self) -> SettingsUpdate | None:
        """The broadcast as an update."""
        if self.settings is not None:
            return Desired(self.revision, self.settings)
        return InvalidSettings(self.revision, self.reason) if self.revision else None


class Exchange:
    """One exchange at a time over `group`, a gloo group of all ranks that only the agent uses.

    Its methods raise RuntimeError when the other ranks are gone.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._group: dist.ProcessGroup | None = group
        self._bytes = torch.zeros(BROADCAST_BYTES + self.size * _STATUS.size, dtype=torch.uint8)
        self._work: Any = None

    @property
    def in_progress(self) -> bool:
        """Whether one was started and not completed."""
        return self._work is not None

    def start(self, broadcast: SettingsBroadcast, status: RankStatus) -> None:
        """Start an exchange. broadcast: only rank 0's is sent."""
        filled = bytearray(len(self._bytes))
        if self.rank == 0:
            message = msgspec.msgpack.encode(broadcast)
            _LENGTH.pack_into(filled, 0, len(message))
            filled[_LENGTH.size : _LENGTH.size + len(message)] = message
        _STATUS.pack_into(filled, BROADCAST_BYTES + self.rank * _STATUS.size, *status)
        self._bytes.copy_(torch.frombuffer(filled, dtype=torch.uint8))
        self._work = dist.all_reduce(self._bytes, group=self._group, async_op=True)

    def complete(self) -> tuple[SettingsBroadcast, list[RankStatus]]:
        """Wait for the other ranks' part of the exchange that was started. Statuses are in the order of ranks."""
        work, self._work = self._work, None
        work.wait()
        data = ctypes.string_at(self._bytes.data_ptr(), len(self._bytes))  # numpy may not be installed
        (length,) = _LENGTH.unpack_from(data)
        broadcast = msgspec.msgpack.decode(data[_LENGTH.size : _LENGTH.size + length], type=SettingsBroadcast)
        offsets = range(BROADCAST_BYTES, BROADCAST_BYTES + self.size * _STATUS.size, _STATUS.size)
        return broadcast, [RankStatus(*_STATUS.unpack_from(data, offset)) for offset in offsets]

    def gather(self, value: object) -> list[Any]:
        """Every rank's value, in the order of ranks. Waits."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def close(self) -> None:
        """Leave the group. Ranks still waiting for this one get an error instead of hanging."""
        work, self._work = self._work, None
        group, self._group = self._group, None
        if group is None:
            return
        try:
            if work is not None:
                work.wait(timedelta(seconds=CLOSE_S))
        finally:
            dist.destroy_process_group(group)  # its connections close when nothing here refers to it any more
