"""`mode=clip`: one limit on the total norm of all of an agent's gradients, decided on the device.

The same as `steadynorm_contract.clipping`, which is easier to read. With several stabilizers (several optimizers or
devices) the first one that steps in a round measures the gradients of all, and each of them has the same factor, as
clip_grad_norm_ on all parameters before the first step would give; one whose gradients come later counts with what it
has when it steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from steadynorm.stabilizer.statistics import DeviceSettings
from steadynorm_contract.clipping import ALPHA, CLIP_EPS, USUAL_DECAY, WARM_UP, Z

_NOTHING = -1.0  # in place of the newest norm


class Member(Protocol):
    """A stabilizer, as far as its total norm is concerned."""

    device: torch.device

    def total_norm(self, grad_scale: Tensor | None) -> Tensor:
        """L2 norm of its gradients as they are, float32, 0-dim."""
        ...


class TotalClip:
    """The clip of `members` together, a list that may grow."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._stepped: set[int] = set()  # in this round
        self._norms: dict[int, Tensor] = {}  # by member: its total norm before the clip
        self._automatic = False  # whether the last step was limited by recent norms
        # What is there of: recent, float64 [4]: mean, variance, steps, and the newest norm, not yet added; usual,
        # float64, 0-dim: decayed mean of the factor.
        self._state: dict[str, Tensor] = {}

    @property
    def memory(self) -> object:
        """What a captured step writes to, from now on."""
        return self._state

    def begin(self, member: Member, grad_scale: Tensor | None) -> None:
        """Call before `member` measures its own gradients. Collective where others' parameters are sharded."""
        if self._stepped and id(member) not in self._stepped:
            self._stepped.add(id(member))
            return
        self._stepped, self._norms, failed = {id(member)}, {}, None
        if self._automatic:
            self._add_newest(self._state["recent"])
        for other in self._members:
            if other is not member:
                try:
                    self._norms[id(other)] = other.total_norm(grad_scale)
                except Exception as error:  # of the others, some may wait for other ranks
                    failed = failed or error
        if failed is not None:
            raise failed

    def factor(self, member: Member, raw_norms: Tensor, settings: DeviceSettings) -> Tensor:
        """Factor on the gradients of `member`, float32, 0-dim; 0 where the total norm is not finite.

        raw_norms: of its tensors, float32 [P], negative where none was measured.
        """
        device = self._members[0].device
        self._norms[id(member)] = torch.linalg.vector_norm(raw_norms.clamp_min(0.0))
        norms = [norm.to(device, non_blocking=True) for norm in self._norms.values()]
        total = (norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))).double()
        if settings.clips_by_recent:
            limit = self._recent_limit(total)
        else:
            self._automatic = False
            limit = settings.clip_norm.to(device, non_blocking=True)
        factor = torch.where(total.isfinite(), (limit / (total + CLIP_EPS)).clamp_max(1.0), 0.0)
        usual = self._state.get("usual")
        if usual is None:
            self._state["usual"] = torch.where(factor > 0, factor, 1.0)
        else:
            usual.lerp_(torch.where(factor > 0, factor, usual), 1 - USUAL_DECAY)
        return factor.to(member.device, torch.float32, non_blocking=True)

    def usual(self, device: torch.device) -> Tensor | float:
        """What the clip usually multiplies gradients by, for a bumpless change between it and `stabilize`."""
        usual = self._state.get("usual")
        return 1.0 if usual is None else usual.to(device, torch.float32, non_blocking=True)

    def _recent_limit(self, total: Tensor) -> Tensor:
        """As `RecentNorms.limit`."""
        if not self._automatic:
            recent = self._state.setdefault("recent", torch.zeros(4, dtype=torch.float64, device=total.device))
            recent.zero_()[3].fill_(_NOTHING)
            self._automatic = True
        mean, variance, steps, newest = self._state["recent"]
        deviation = variance.sqrt()
        z = (total - mean) / (deviation + CLIP_EPS)
        limited = (steps >= WARM_UP) & (z > Z) & z.isfinite()
        limit = torch.where(limited, mean + Z * Z / z * deviation, torch.inf)
        newest.copy_(torch.where(total.isfinite(), torch.minimum(total, limit), _NOTHING))
        return limit

    def _add_newest(self, recent: Tensor) -> None:
        """As `RecentNorms.add`, at the beginning of the next round: until then the total may still change."""
        mean, variance, steps, newest = recent
        off, count = newest - mean, steps + 1
        first = mean + off / count
        begun = torch.stack([first, (steps * variance + off * (newest - first)) / count, count])
        later = torch.stack([ALPHA * mean + (1 - ALPHA) * newest, ALPHA * variance + (1 - ALPHA) * off * off, steps])
        new = torch.where(steps < WARM_UP, begun, later)
        recent[:3] = torch.where(newest >= 0, new, recent[:3])
        newest.fill_(_NOTHING)

    def save(self) -> dict[str, list[float] | float]:
        """For a checkpoint: what there is. Waits for the device."""
        return {name: value.tolist() for name, value in self._state.items() if self._automatic or name != "recent"}

    def load(self, saved: Mapping[str, list[float] | float]) -> None:
        """Restore what `save` returned."""
        made = {name: torch.tensor(value, dtype=torch.float64, device="cpu") for name, value in saved.items()}
        for name, value in made.items():
            if name in self._state:  # a captured step may write to it
                self._state[name].copy_(value)
            else:
                self._state[name] = value.to(self._members[0].device)
        if "usual" not in saved:
            self._state.pop("usual", None)
        self._automatic = "recent" in saved
        self._stepped, self._norms = set(), {}
