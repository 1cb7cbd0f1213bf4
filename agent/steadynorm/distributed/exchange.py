"""One small asynchronous all-reduce, in which each rank fills only its own bytes.

Rank 0 fills the broadcast: the settings that the server desires, and whether all ranks wait. Every rank fills a status.
Bytes that no other rank fills are their own sum, so one collective is a broadcast and a gather at once. Where all ranks
know of it, numbers are reduced beside it, see `reductions`.
"""

from __future__ import annotations

import ctypes
import secrets
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from steadynorm.mailbox import DesiredAtStart, InvalidSettings, SettingsUpdate
from steadynorm.recovery.orders import News
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import Desired

BROADCAST_BYTES = 8192
"""The settings with as many knobs as a run may have, and a reason."""
MAX_REASON_LENGTH = 300  # characters
MAX_WAIT_S = 2.0
"""For ranks that are late. An exchange that comes in time restores it: many small waits must not use it up."""

_LENGTH = struct.Struct("<i")
_STATUS = struct.Struct("<??xxIIIddddIII")
_IN_TIME_S = 0.005  # a wait that the machine's scheduling explains
_POLL_S = 0.0005, 0.02  # the first interval, and the longest


class RankStatus(NamedTuple):
    """What every rank reports of itself."""

    failed: bool = False  # its agent met an internal error
    closing: bool = False  # its agent is being closed: no rank may wait any longer
    broken_step: int = 0  # of a snapshot at which its weights were not finite; 0: none
    names: int = 0  # hash of its parameters' names and shapes: only ranks with the same ones are compared by norms
    settings: int = 0  # hash of what is in force
    norms: float = float("nan")  # fingerprints of its newest norms and statistics; NaN: none is due
    statistics: float = float("nan")
    weights: float = float("nan")  # fingerprint of its weights
    weights_after: float = float("nan")  # the same one step later
    snapshots: int = 0  # fingerprint of the good snapshots that it holds; 0: none
    reduced: int = 0  # see `reductions.Offer`
    arrived: int = 0


class RanksApartError(RuntimeError):
    """Other ranks did not come to the exchange in time: their numbers of steps differ, or they are gone."""


class SettingsBroadcast(msgspec.Struct, frozen=True):
    """What rank 0 sends. settings None: no update, or, with a revision, `reason` says why it cannot be read."""

    revision: int = 0
    settings: Settings | None = None
    reason: str = ""
    wait: bool = False  # all ranks wait at this boundary for the next broadcast
    recovery: News | None = None
    at_start: bool = False  # see `DesiredAtStart`

    @staticmethod
    def of(update: SettingsUpdate | None, *, wait: bool, recovery: News | None = None) -> SettingsBroadcast:
        """An update as a broadcast."""
        if update is None:
            return SettingsBroadcast(wait=wait, recovery=recovery)
        if isinstance(update, InvalidSettings):
            return SettingsBroadcast(update.revision, None, update.reason[:MAX_REASON_LENGTH], wait, recovery)
        at_start = isinstance(update, DesiredAtStart)
        return SettingsBroadcast(update.revision, update.settings, "", wait, recovery, at_start)

    @property
    def update(self) -> SettingsUpdate | None:
        """The broadcast as an update."""
        if self.settings is not None:
            return (DesiredAtStart if self.at_start else Desired)(self.revision, self.settings)
        return InvalidSettings(self.revision, self.reason) if self.revision else None


class Exchange:
    """One exchange at a time over `group`, a gloo group of all ranks that only the agent uses.

    Its methods raise RuntimeError when the other ranks are gone. device_is_busy: whether work that was queued on this
    rank's accelerator before is still not done: then the training itself waits, and the exchange does not hold it up.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._group: dist.ProcessGroup | None = group
        self.name = str(self.gather(secrets.token_hex(8))[0])  # the same on all ranks, and of no other exchange
        self._bytes = torch.zeros(BROADCAST_BYTES + self.size * _STATUS.size, dtype=torch.uint8, device="cpu")
        self._works: list[Any] = []  # of the exchange in progress
        self._tensors: list[Tensor] = []  # that they reduce
        self._left_s = MAX_WAIT_S

    @property
    def in_progress(self) -> bool:
        """Whether one was started and not completed."""
        return bool(self._works)

    def start(
        self,
        broadcast: SettingsBroadcast,
        status: RankStatus,
        reduced: Sequence[tuple[Tensor, dist.ReduceOp.RedOpType]] = (),
    ) -> None:
        """Start an exchange. broadcast: only rank 0's is sent. reduced: of the same sizes on all ranks, in place."""
        filled = bytearray(len(self._bytes))
        if self.rank == 0:
            message = msgspec.msgpack.encode(broadcast)
            _LENGTH.pack_into(filled, 0, len(message))
            filled[_LENGTH.size : _LENGTH.size + len(message)] = message
        _STATUS.pack_into(filled, BROADCAST_BYTES + self.rank * _STATUS.size, *status)
        self._bytes.copy_(torch.frombuffer(filled, dtype=torch.uint8))
        tensors = [(self._bytes, dist.ReduceOp.SUM), *reduced]
        self._tensors = [tensor for tensor, _ in tensors]
        self._works = [dist.all_reduce(tensor, op, group=self._group, async_op=True) for tensor, op in tensors]
        self._keep(True)

    def complete(
        self, *, device_is_busy: Callable[[], bool] = lambda: False, extra_s: float = 0.0
    ) -> tuple[SettingsBroadcast, list[RankStatus]]:
        """Wait for the other ranks' part of the exchange that was started. Statuses are in the order of ranks.

        extra_s: a wait that is meant, and does not count. Raises RanksApartError after MAX_WAIT_S of late exchanges.
        """
        if not self._wait(device_is_busy, extra_s):
            raise RanksApartError
        works, self._works = self._works, []
        self._keep(False)
        for work in works:
            work.wait()  # it is done: this raises its error, if it has one
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
        """Leave the group. Ranks still waiting for this one get an error or the end of their patience."""
        group, self._group = self._group, None
        if group is None:
            return
        try:
            if self._works and self._wait(lambda: False, 0.0):
                self._works = []
                self._keep(False, group)
        finally:
            dist.destroy_process_group(group)  # its connections close when nothing refers to it any more

    def abandon(self) -> None:
        """In a forked child: the threads that would complete it, and end the group, are the parent's."""
        works, self._group, self._works = self._works, None, []
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(works))  # to free them would wait for those threads

    def _wait(self, device_is_busy: Callable[[], bool], extra_s: float) -> bool:
        """Wait within what is left. Returns whether the exchange is done."""
        if self._is_done():
            self._left_s = MAX_WAIT_S
            return True
        interval_s, longest_s = _POLL_S
        begin = last = time.monotonic()
        while not self._is_done():
            time.sleep(interval_s)
            interval_s = min(2 * interval_s, longest_s)
            now = time.monotonic()
            if now - begin > extra_s and not device_is_busy():
                self._left_s -= now - last
            last = now
            if self._left_s <= 0:
                return False
        if last - begin < _IN_TIME_S:
            self._left_s = MAX_WAIT_S
        return True

    def _is_done(self) -> bool:
        return all(work.is_completed() for work in self._works)

    def _keep(self, held: bool, group: dist.ProcessGroup | None = None) -> None:
        """While an exchange is in progress, its group and its tensors are held by a reference that nothing drops.

        Destroying the group would wait for the ranks that have not come, for half an hour, and at the interpreter's
        exit gloo's thread must not be the one that frees a Python object.
        """
        change = ctypes.pythonapi.Py_IncRef if held else ctypes.pythonapi.Py_DecRef
        for each in (group or self._group, *self._tensors):
            change(ctypes.py_object(each))
