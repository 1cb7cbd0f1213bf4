"""What the ranks tell each other: one small asynchronous all-reduce in which each rank fills only its own bytes.

Rank 0 fills the news: the settings that its server wants, and whether all shall wait. Every rank fills a status. Bytes
that nobody else fills add up to themselves, so one collective is a broadcast and a gathering at once.
"""

from __future__ import annotations

import ctypes
import struct
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec
import torch
import torch.distributed as dist

from steadynorm.transport.http_client import InvalidSettings, SettingsUpdate
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import Desired

__all__ = ["Exchange", "SettingsBroadcast", "Status"]

NEWS_BYTES = 2048
MOST_REASON = 300  # characters of why settings cannot be read
CLOSE_S = 2.0  # for an exchange that is under way when the agent closes

_LENGTH = struct.Struct("<i")
_STATUS = struct.Struct("<??xxIIdd")


class Status(NamedTuple):
    """What every rank tells of itself."""

    failed: bool = False  # its agent met an internal error
    closing: bool = False  # its agent is being closed: nobody may wait any longer
    names: int = 0  # hash of its parameters' names: only ranks with the same ones are compared by norms
    settings: int = 0  # hash of what is in force
    norms: float = float("nan")  # fingerprints of its newest norms and statistics; NaN: none is due
    statistics: float = float("nan")


class SettingsBroadcast(msgspec.Struct, frozen=True):
    """What rank 0 tells. settings None: there are none, or, with a revision, `reason` says why they cannot be read."""

    revision: int = 0
    settings: Settings | None = None
    reason: str = ""
    hold: bool = False  # wait at this boundary for more news

    @staticmethod
    def of(offer: SettingsUpdate | None, *, hold: bool) -> SettingsBroadcast:
        """An offer as news."""
        if offer is None:
            return SettingsBroadcast(hold=hold)
        if isinstance(offer, InvalidSettings):
            return SettingsBroadcast(offer.revision, None, offer.reason[:MOST_REASON], hold)
        return SettingsBroadcast(offer.revision, offer.settings, "", hold)

    @property
    def offer(self) -> SettingsUpdate | None:
        """The news as an offer."""
        if self.settings is not None:
            return Desired(self.revision, self.settings)
        return InvalidSettings(self.revision, self.reason) if self.revision else None


class Exchange:
    """One exchange at a time over `group`, a gloo group of all ranks that the agent has for itself.

    Its methods raise RuntimeError when the other ranks are gone.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._group: dist.ProcessGroup | None = group
        self._bytes = torch.zeros(NEWS_BYTES + self.size * _STATUS.size, dtype=torch.uint8)
        self._work: Any = None

    @property
    def under_way(self) -> bool:
        """Whether one was started and not completed."""
        return self._work is not None

    def start(self, news: SettingsBroadcast, status: Status) -> None:
        """Begin. news: only rank 0's counts."""
        filled = bytearray(len(self._bytes))
        if self.rank == 0:
            told = msgspec.msgpack.encode(news)
            _LENGTH.pack_into(filled, 0, len(told))
            filled[_LENGTH.size : _LENGTH.size + len(told)] = told
        _STATUS.pack_into(filled, NEWS_BYTES + self.rank * _STATUS.size, *status)
        self._bytes.copy_(torch.frombuffer(filled, dtype=torch.uint8))
        self._work = dist.all_reduce(self._bytes, group=self._group, async_op=True)

    def complete(self) -> tuple[SettingsBroadcast, list[Status]]:
        """Wait for the other ranks' part of the exchange that was started. Statuses are in the order of ranks."""
        work, self._work = self._work, None
        work.wait()
        data = ctypes.string_at(self._bytes.data_ptr(), len(self._bytes))  # numpy may not be there
        (length,) = _LENGTH.unpack_from(data)
        news = msgspec.msgpack.decode(data[_LENGTH.size : _LENGTH.size + length], type=SettingsBroadcast)
        return news, [Status(*_STATUS.unpack_from(data, NEWS_BYTES + r * _STATUS.size)) for r in range(self.size)]

    def gather(self, value: object) -> list[Any]:
        """Every rank's value, in the order of ranks. Waits."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def close(self) -> None:
        """Leave the group. Ranks that have not, and wait for this one, are told by an error instead of a silence."""
        work, self._work = self._work, None
        group, self._group = self._group, None
        if group is None:
            return
        try:
            if work is not None:
                work.wait(timedelta(seconds=CLOSE_S))
        finally:
            dist.destroy_process_group(group)  # its connections close when nothing here refers to it any more
