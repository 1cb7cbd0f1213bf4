"""The snapshots that a rank holds: a candidate, and the good ones before it.

Which ones are held follows from step numbers and from what rank 0 evaluated, so it is the same on all ranks.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steadynorm.recovery.contents import Contents, Saved
from steadynorm.recovery.trees import Buffers


@dataclass(slots=True)
class Snapshot:
    """The state after a step. good: no alarm since, for `confirm` steps."""

    step: int
    saved: Saved
    buffers: Buffers
    good: bool = False
    number: int | None = None  # under which the step was recorded, once that is known
    finite: Tensor | None = None  # in host memory, once `copied`
    copied: list[torch.cuda.Event] = field(default_factory=list)

    def is_copied(self) -> bool:
        """Whether the copy is complete. Does not wait."""
        return all(event.query() for event in self.copied)

    def wait(self) -> None:
        """Until the copy is complete."""
        for event in self.copied:
            event.synchronize()


class Snapshots:
    """At most `keep` good ones, and one that is not confirmed yet."""

    def __init__(self, contents: Contents, keep: int, confirm: int) -> None:
        self._contents, self._keep, self._confirm = contents, keep, confirm
        self._held: list[Snapshot] = []  # the oldest first
        self._free: list[Buffers] = [Buffers() for _ in range(keep + 1)]
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    @property
    def good(self) -> list[int]:
        """Steps of the good ones, the oldest first."""
        return [each.step for each in self._held if each.good]

    @property
    def unnumbered(self) -> list[int]:
        """Steps whose recorded number is not known yet."""
        return [each.step for each in self._held if each.number is None]

    def set_numbers(self, numbers: Mapping[int, int]) -> None:
        """By step, the number under which it was recorded."""
        for each in self._held:
            each.number = numbers.get(each.step, each.number)

    def number(self, step: int) -> int | None:
        """That of the snapshot of `step`."""
        return next((each.number for each in self._held if each.step == step), None)

    @property
    def first_good_at(self) -> int | None:
        """The step at which the candidate will be good; None: there is none."""
        return next((each.step + self._confirm for each in self._held if not each.good), None)

    @property
    def fingerprint(self) -> int:
        """The same on all ranks that hold the same good ones; 0: none."""
        return zlib.crc32(repr(self.good).encode()) or 1 if self.good else 0

    def take(self, step: int) -> bool:
        """Copy the present state, unless a candidate still waits for its confirmation. Returns whether it was taken."""
        if any(not each.good for each in self._held):
            return False
        buffers = self._free.pop()
        try:
            self._held.append(self._copy(step, buffers))
        except BaseException:
            self._free.append(buffers)
            raise
        return True

    def confirm(self, evaluated: int, *, fault_until: int = 0) -> None:
        """Steps up to `evaluated` raised no alarm; those up to `fault_until` did, so what is of them is not good."""
        for each in [each for each in self._held if not each.good and each.step <= fault_until]:
            self._drop(each)
        for each in self._held:
            each.good = each.good or each.step + self._confirm <= evaluated
        while len(good := [each for each in self._held if each.good]) > self._keep:
            self._drop(good[0])

    def drop_candidate(self) -> None:
        """An alarm was raised: what is not confirmed may have the fault in it."""
        self.drop_after(max(self.good, default=-1))

    def drop_after(self, step: int) -> None:
        """Those of later steps."""
        for each in [each for each in self._held if each.step > step]:
            self._drop(each)

    def clear(self) -> None:
        """All of them."""
        self.drop_after(-1)

    def release(self) -> None:
        """All of them, and their memory."""
        self.clear()
        self._free = [Buffers() for _ in self._free]

    def broken_step(self) -> int | None:
        """The step of a snapshot whose weights are not finite, once when that is known."""
        for each in self._held:
            if each.finite is not None and each.is_copied():
                finite, each.finite = bool(each.finite), None
                if not finite:
                    return each.step
        return None

    def misfit(self, step: int) -> str:
        """Why the one of that step cannot be restored; empty if it can."""
        found = next((each for each in self._held if each.step == step and each.good), None)
        return f"no good snapshot of step {step} is held" if found is None else self._contents.misfit(found.saved)

    def restore(self, step: int) -> list[str]:
        """Write the snapshot of that step back. Check with `misfit()` before. Returns what raised an error."""
        found = next(each for each in self._held if each.step == step)
        found.wait()
        return self._contents.restore(found.saved)

    def _drop(self, snapshot: Snapshot) -> None:
        self._held.remove(snapshot)
        self._free.append(snapshot.buffers)

    def _copy(self, step: int, buffers: Buffers) -> Snapshot:
        """On streams of their own, which the coming step waits for: the host does not."""
        with ExitStack() as streams:
            used = []
            for device in self._contents.devices():
                side = self._streams.setdefault(device, torch.cuda.Stream(device))
                side.wait_stream(torch.cuda.current_stream(device))
                streams.enter_context(torch.cuda.stream(side))
                used.append((device, side))
            saved, finite = self._contents.save(buffers), self._contents.finite()
            if finite is not None and finite.is_cuda:
                finite = torch.empty((), dtype=torch.bool, device="cpu", pin_memory=True).copy_(
                    finite, non_blocking=True
                )
            events = [side.record_event() for _, side in used]
        for device, side in used:
            torch.cuda.current_stream(device).wait_stream(side)
        return Snapshot(step, saved, buffers, finite=finite, copied=events)
