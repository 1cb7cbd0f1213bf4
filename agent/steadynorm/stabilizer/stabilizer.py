"""`GradientStabilizer`: all tensors at once, on their device, without a host synchronization.

    stabilizer = GradientStabilizer(model.named_parameters(), gamma2=0.99)
    loss.backward()
    stabilizer.apply()          # in place on .grad
    optimizer.step()

Read `reference.py` first: it is the same rule, one tensor at a time. Here each statistic is one float32 vector over
all parameters, and every decision is a tensor, so nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor

from steadynorm.stabilizer.captures import Captures
from steadynorm.stabilizer.gradients import Gradients, group_bounds, multiply_all
from steadynorm.stabilizer.kernels.selection import choose_kernels
from steadynorm.stabilizer.named import common_device, trainable
from steadynorm.stabilizer.single import choose_single
from steadynorm.stabilizer.statistics import NOT_MEASURED, RING_COLUMNS, STATE_FIELDS, STATISTICS, Statistics, upgraded
from steadynorm.stabilizer.summary import clean_rows, stabilized_norms
from steadynorm.stabilizer.total_clip import TotalClip
from steadynorm_contract.settings import Mode, Settings, Transfer, merge


class GradientStabilizer:
    """Replaces each gradient's magnitude by a statistically stabilized one and keeps its direction.

    A tensor g with L2 norm n becomes g * unit * target / n, where target = norm_mean / (norm_rms + eps), norm_mean is
    the decayed mean of n over the steps (gamma1) and norm_rms the root of that of n² (gamma2). With unit = 1 (transfer
    `plain`) that is the rule of "GradientStabilizer: Fix the Norm, Not the Gradient" (arXiv 2502.17055, ICML
    2026). Bumpless transfer chooses unit such that the scale of the gradients does not jump when stabilizing begins.
    Derivation and extensions: docs/algorithm.md.

    Args:
        named_parameters: (name, tensor) pairs with unique names, as `model.named_parameters()` returns them, all on one
            device; any shape, floating-point or complex dtype. Tensors that require no gradient are ignored.
        mode: `off`, `observe` (statistics only), `clip` or `stabilize`.
        gamma1: Decay of the first moment of the norm, in [0, 1).
        gamma2: Decay of the second moment of the norm, in [0, 1).
        eps: Added to the root of the second moment; positive.
        spike_limit: Largest norm that enters the statistics, in multiples of norm_rms. None: no limit, as in the paper;
            `attach()` begins with 3, and with spike_fade.
        spike_fade: Whether a step above spike_limit also counts less, by the square of how far it is above.
        transfer: `bumpless` carries the scale over a change of mode; `plain` does not.
        clip_norm: In mode `clip`, the largest total norm of all gradients; or `auto`, ZClip's limit.

    Attributes:
        names: Of the parameters.
        parameters: The tensors, in the same order.
        released: Places of those that were let go of, see `release()`.
        device: Their device.
        rows: float32 [parameters, RING_COLUMNS] on that device, rewritten by every `apply()`, see `summary`.
        sharded: Whether any parameter is sharded over ranks, so that all of them must apply each step.

    Raises:
        TypeError: `named_parameters` are not (name, tensor) pairs.
        ValueError: A parameter cannot be used, or a setting breaks its rule (`SettingsError`).
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        *,
        mode: Mode | str = Mode.STABILIZE,
        gamma1: float = 0.6,
        gamma2: float = 0.999,
        eps: float = 1e-12,
        spike_limit: float | None = None,
        spike_fade: bool = False,
        transfer: Transfer | str = Transfer.BUMPLESS,
        clip_norm: float | str = 1.0,
    ) -> None:
        given = {"mode": mode, "gamma1": gamma1, "gamma2": gamma2, "eps": eps, "spike_limit": spike_limit}
        given |= {"spike_fade": spike_fade, "transfer": transfer, "clip_norm": clip_norm}
        self._settings = merge(Settings(), given)
        pairs = trainable(named_parameters)
        self.names = [name for name, _ in pairs]
        self.parameters = [tensor for _, tensor in pairs]
        self.released: set[int] = set()
        self.device = common_device(self.parameters)
        self._previous_mode = self._settings.mode
        self.clip = TotalClip([self])  # an agent's stabilizers share one
        self._fresh = True  # before the first step a change of mode has no scale to carry over
        self._scaling = False  # whether the last apply() changed gradients
        self._gains_changed = False  # whether any gain may differ from 1: until then pass-through touches nothing
        self._statistics = Statistics.allocate(len(pairs), self.device)
        self._statistics.configure(self._settings)
        self.captures = Captures(self.device)
        self._bounds = group_bounds(self.parameters, self.device)
        self._groups = [
            (Gradients(self.parameters[start:stop]), self._statistics.slice(start, stop))
            for start, stop in self._bounds
        ]
        self.sharded = any(gradients.shards is not None for gradients, _ in self._groups)
        self.rows = torch.zeros(len(pairs), len(RING_COLUMNS), dtype=torch.float32, device=self.device)
        # None: torch's operations do everything.
        whole = self._groups[0][0] if len(self._groups) == 1 else None
        self._kernels = choose_kernels(self.parameters, self._statistics, self.rows, self._previous_mode, whole)
        single = self._kernels is None and not self.sharded
        self._single = choose_single(self.parameters, self._statistics, self.rows) if single else None
        self._usual: Settings | None = None  # those of the last step, if it was in the mode of the one before

    @property
    def settings(self) -> Settings:
        """The settings of the next `apply()`."""
        return self._settings

    def configure(self, **changes: object) -> None:
        """Change settings; they take effect at the next `apply()`.

        Args:
            **changes: New values by setting, see the constructor.

        Raises:
            SettingsError: A setting breaks its rule, and nothing was changed.
        """
        self._settings = merge(self._settings, changes)
        self._statistics.configure(self._settings)
        self._statistics.refresh()
        if self._fresh:
            self._previous_mode = self._settings.mode
            if self._kernels is not None:
                self._kernels.mode = self._previous_mode

    def reset(self) -> None:
        """Discard the statistics. Unit and gain are kept, so that the scale of the gradients does not jump."""
        self._statistics.drop_samples()

    @property
    def state(self) -> Tensor:
        """float32 [11, parameters], changed in place by each step. After writing to it call `configure()`."""
        return self._statistics.state

    def release(self, places: Iterable[int]) -> None:
        """Let go of the parameters at these places: they keep their row, and have no gradient from now on.

        Args:
            places: Indices into `parameters`.
        """
        for place in places:
            placeholder = torch.empty(0, dtype=self.parameters[place].dtype, device=self.device)
            self.parameters[place] = placeholder
            self.released.add(place)
            for gradients, (start, stop) in zip(self._groups, self._bounds, strict=True):
                if start <= place < stop:
                    gradients[0].release(place - start, placeholder)
            if self._kernels is not None:
                self._kernels.release(place, placeholder)

    def let_go(self) -> None:
        """Keep no parameter alive; the state and the statistics stay. Takes no lock: the collector may call it."""
        self.parameters, self._groups = [], []
        self._single = None
        if self._kernels is not None:
            self._kernels.let_go()

    @torch.no_grad()
    def has_gradient(self) -> bool:
        """Whether any gradient is not zero. Waits for the device; collective where parameters are sharded."""
        return bool((self._norms_now() != 0).any())  # NaN too

    def _norms_now(self) -> Tensor:
        """Of the gradients as they are, float32 [P]."""
        norms = torch.zeros_like(self._statistics.raw_norm)
        for (gradients, _), (start, stop) in zip(self._groups, self._bounds, strict=True):
            gradients.measure(out=norms[start:stop])
        return norms

    def apply(self, grad_scale: Tensor | None = None, found_inf: Tensor | None = None) -> None:
        """One optimizer step: measure, update the statistics, and rescale every `.grad` in place.

        Call between `backward()` and the optimizer's `step()`. Gradients that are None are ignored.

        Args:
            grad_scale: Tensor of one element that `GradScaler` leaves on a fused optimizer: the loss scale that
                gradients are multiplied by. They stay so; the statistics are of the true norms.
            found_inf: Tensor of one element, not 0 where the optimizer will skip this step: the statistics are not
                updated.
        """
        single = self._single if grad_scale is None and found_inf is None else None
        if single is not None and self._settings is self._usual and single.step_on(self._settings, self._scaling):
            return None
        mode, previous = self._settings.mode, self._previous_mode
        plain = self._settings.transfer is Transfer.PLAIN
        self._usual = self._settings if mode is previous and mode in (Mode.OBSERVE, Mode.STABILIZE) else None
        if mode is Mode.CLIP:
            return self._apply_clip(previous, self._to_device(grad_scale), self._to_device(found_inf))
        if previous is Mode.CLIP and self._kernels is not None:
            self._statistics.settings.usual_clip.fill_(self.clip.usual(self.device))
        elif previous is Mode.CLIP and mode is Mode.STABILIZE and not plain:
            self._statistics.gain.mul_(self.clip.usual(self.device))
        self._scaling = mode is Mode.STABILIZE or (not plain and (self._gains_changed or previous is Mode.STABILIZE))
        if single is not None and mode is not Mode.OFF and single.step(self._settings, previous, self._scaling):
            return self._finish_step(mode)
        return self._apply(mode, previous, self._to_device(grad_scale), self._to_device(found_inf))

    @torch.no_grad()
    def _apply(self, mode: Mode, previous: Mode, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        scaling, plain = self._scaling, self._settings.transfer is Transfer.PLAIN
        self.captures.keep(self._memory())
        if self._kernels is not None:
            self._kernels.step(mode, scaling, grad_scale, found_inf)
            self._finish_step(mode)
            return
        for gradients, statistics in self._groups:
            if mode is Mode.OFF:
                gradients.skip(statistics.raw_norm)
                present = gradients.collect()
            else:
                present = gradients.measure(out=statistics.raw_norm)
                statistics.unscale(grad_scale, found_inf)
                statistics.update()
            statistics.transfer_scale(mode, previous, plain=plain)
            statistics.decide(mode)
            if gradients.shards is not None and mode is Mode.STABILIZE:
                statistics.pass_through_where(gradients.shards.failed, plain=plain)
            if scaling:
                gradients.scale(present, statistics.scale, statistics.finite if mode is Mode.STABILIZE else None)
                if grad_scale is not None:
                    gradients.saturate(present)
        self._finish_step(mode)
        if mode is Mode.OFF:
            self._statistics.raw_norm.fill_(NOT_MEASURED)
        self._statistics.write_rows(out=self.rows)

    @torch.no_grad()
    def _apply_clip(self, previous: Mode, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """All tensors are measured before any is scaled."""
        self._scaling, everything, live, found = True, self._statistics, self._statistics.settings, []
        self.captures.keep(self._memory())
        self.clip.begin(self, grad_scale)
        if self._kernels is not None:
            live.usual_clip.fill_(self.clip.usual(self.device))
            self._kernels.step(
                Mode.CLIP, True, grad_scale, found_inf, lambda norms: self.clip.factor(self, norms, live)
            )
            self._finish_step(Mode.CLIP)
            return
        for gradients, statistics in self._groups:
            found.append(gradients.measure(out=statistics.raw_norm))
        everything.unscale(grad_scale, found_inf)
        everything.update()
        plain = self._settings.transfer is Transfer.PLAIN
        everything.transfer_scale(Mode.CLIP, previous, plain=plain)
        if previous is Mode.STABILIZE and not plain:
            everything.gain.div_(self.clip.usual(self.device))
        factor = self.clip.factor(self, everything.raw_norm, live)
        torch.mul(everything.gain, factor, out=everything.scale)
        self._finish_step(Mode.CLIP)
        if self.device.type == "cpu" and not self._gains_changed:
            multiply_all([gradient for _, gradients in found for gradient in gradients], factor)
        else:
            kept = (factor > 0).expand(len(self.names))
            for (gradients, statistics), present, (start, stop) in zip(self._groups, found, self._bounds, strict=True):
                gradients.scale(present, statistics.scale, kept[start:stop])
                if grad_scale is not None:
                    gradients.saturate(present)
        everything.write_rows(out=self.rows)

    @torch.no_grad()
    def total_norm(self, grad_scale: Tensor | None = None) -> Tensor:
        """L2 norm of all gradients as they are, float32, 0-dim. Collective where parameters are sharded."""
        total: Tensor = torch.linalg.vector_norm(self._norms_now())
        scale = self._to_device(grad_scale)
        return total if scale is None else total / scale.view(())

    def _memory(self) -> Iterator[object]:
        """What a captured step points into."""
        yield from (self._statistics, self.rows, self.clip.memory)
        yield from (gradients.shards.memory for gradients, _ in self._groups if gradients.shards)
        if self._kernels is not None:
            yield self._kernels.memory

    def _to_device(self, scalar: Tensor | None) -> Tensor | None:
        """A copy on this device. A scaler has one device, an optimizer may have several."""
        if scalar is None or scalar.device == self.device:
            return scalar
        return scalar.to(self.device, non_blocking=self.device.type != "cpu")  # a copy to host memory has to wait

    def _finish_step(self, mode: Mode) -> None:
        left = self._previous_mode is Mode.STABILIZE is not mode
        self._gains_changed = self._settings.transfer is not Transfer.PLAIN and (self._gains_changed or left)
        self._previous_mode = mode
        self._fresh = False

    @property
    def collectives(self) -> int:
        """Collectives entered with ranks that hold shards of the parameters; 0 where none is sharded."""
        return sum(gradients.shards.entered for gradients, _ in self._groups if gradients.shards is not None)

    @torch.no_grad()
    def skip(self) -> None:
        """Call when an `apply()` failed before it entered its collective: the other ranks wait for this one."""
        for gradients, statistics in self._groups:
            gradients.skip(statistics.raw_norm)

    def stop_measuring(self) -> None:
        """Turn off for good, on all ranks at the same step: no collective is entered any more."""
        self._settings = merge(self._settings, {"mode": Mode.OFF})  # even if configure() is what failed
        self._statistics.configure(self._settings)
        for gradients, _ in self._groups:
            if gradients.shards is not None:
                gradients.shards.disabled = True

    @torch.no_grad()
    def apply_again(self) -> None:
        """Scale another gradient of the same step, from a closure that the optimizer evaluates again (LBFGS).

        A line search compares the gradients of one step, so each tensor keeps the scale that `apply()` decided, and the
        statistics are not updated. In stabilize a gradient that is not finite becomes zero, as in `apply()`.
        """
        if not self._scaling and not self.sharded:
            return
        for gradients, statistics in self._groups:
            finite: Tensor | None = None
            # Measuring shards is collective: do it also on a rank whose apply() failed.
            if self._previous_mode is Mode.STABILIZE or self.sharded:
                norms = torch.empty_like(statistics.raw_norm)  # evaluations are rare enough to allocate
                present = gradients.measure(out=norms)
                if self._previous_mode is Mode.STABILIZE:
                    finite = statistics.finite.logical_and(norms < torch.inf)
            else:
                present = gradients.collect()
            if self._scaling:
                gradients.scale(present, statistics.scale, finite)

    @torch.no_grad()
    def statistics(self) -> dict[str, dict[str, float]]:
        """Current statistics of each parameter; norms and scale are those of the last `apply()`. Waits for the device.

        Returns:
            By parameter name, STATISTICS as floats: L2 norms `raw_norm` (NaN where not measured), `stabilized_norm`,
            `norm_mean` and `norm_rms` in the gradient's unit; `target` and `scale`, without unit; and the counts
            `updates` and `nonfinite`.
        """
        self._statistics.write_rows(out=self.rows)  # after a reset or a load they are not those of the last step
        rows = clean_rows(self.rows.cpu())
        counts = self._statistics.state[-2:].cpu()
        values = torch.cat([rows, stabilized_norms(rows).unsqueeze(-1), counts.t()], dim=1).tolist()
        columns = (*RING_COLUMNS, "stabilized_norm", "updates", "nonfinite")
        order = [columns.index(name) for name in STATISTICS]
        return {
            name: {STATISTICS[at]: row[index] for at, index in enumerate(order)}
            for name, row in zip(self.names, values, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint. Waits for the device.

        Returns:
            Plain values and tensors: version, mode, settings, and by parameter name its statistics, unit and gain,
            float32 [11] in STATE_FIELDS order, on the CPU.
        """
        rows = self._statistics.save()
        if self._kernels is not None:
            self._previous_mode = self._kernels.mode  # a captured graph changes mode without a call of apply()
        return {
            "version": 1,
            "mode": self._previous_mode.value,
            "settings": msgspec.to_builtins(self._settings),  # plain values, which torch.load(weights_only=True) takes
            "parameters": dict(zip(self.names, rows.unbind(), strict=True)),
            "clip": self.clip.save(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint.

        Args:
            state: What `state_dict()` returned, with the same parameter names.

        Raises:
            ValueError: Names are missing or unknown, or the state is not a stabilizer's; nothing was changed.
        """
        if state.get("version") != 1:
            raise ValueError(f"stabilizer state must have version 1: got {state.get('version')!r}. Upgrade steadynorm.")
        saved = state["parameters"]
        missing, unknown = [n for n in self.names if n not in saved], [n for n in saved if n not in set(self.names)]
        if missing or unknown:
            raise ValueError(f"stabilizer state does not fit the model: missing {missing[:3]}, unknown {unknown[:3]}")
        rows = torch.stack([upgraded(saved[name]) for name in self.names])
        settings = Settings(**state["settings"])
        self._settings = settings
        self._previous_mode = Mode(state["mode"])
        self._fresh = False
        self._gains_changed = bool((rows[:, STATE_FIELDS.index("gain")] != 1).any())
        self._statistics.configure(settings)
        self._statistics.load(rows)
        self.clip.load(state.get("clip") or {})
        if self._kernels is not None:
            self._kernels.mode = self._previous_mode
