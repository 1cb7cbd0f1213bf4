"""What follows from now on: the rule advanced from a run's present statistics by norms like its recent ones. Pure.

    parameters = client.parameters(run_id)
    worst = candidates(parameters)
    norms = client.series(run_id, [f"raw_norm/{each.name}" for each in worst], start=recent(run))
    tensors = present(run, worst, norms, client.audit(run_id).entries, parameters.step)
    outlook = forecast(tensors[0], run.applied.settings, merge(run.applied.settings, {"gamma2": 0.99}))
    outlook.throttled_for, outlook.targets[200]                    # steps; the expected target in 200 steps

Single norms are random, so the moving averages advance by the mean of the recent norms and of their squares: what comes
is spread around the forecast, and its mean is the forecast while norms stay as they are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.rule import (
    RECOVERED_TARGET,
    SPIKE_RATIO,
    THROTTLED_TARGET,
    TensorState,
    advance,
    fade,
    reset,
    target,
)
from steadynorm_contract.runs import Health, RevisionState, RunDetail
from steadynorm_contract.series import ParameterList, ParameterView, SeriesResponse
from steadynorm_contract.settings import Mode, Settings, Transfer

__all__ = [
    "HORIZONS",
    "Memory",
    "Outlook",
    "Present",
    "calm_norms",
    "candidates",
    "consequences",
    "forecast",
    "memory",
    "present",
    "recent",
    "throttled_words",
]

HORIZONS = (32, 200)
"""Steps from now that people are shown."""

_WORST = 3  # tensors: those that are throttled most
_RECENT = 20  # recorded norms: enough for their mean, and few enough to be recent where norms fall
_FORGOTTEN = 50  # times 1 / (1 - gamma2): no sample from before has any weight then


@dataclass(frozen=True, slots=True)
class Memory:
    """Weights of the moving averages: 1 minus the product of the decays of all steps since they were empty."""

    norm_weight: float
    square_weight: float


@dataclass(frozen=True, slots=True)
class Present:
    """One parameter tensor now. Norms in the unit of its gradient."""

    name: str
    state: TensorState
    norms: Sequence[float]  # recent ones, without spikes, in ascending order; not empty

    @property
    def shortfall(self) -> float:
        """How many times smaller updates are than in calm training, apart from the noise of single steps."""
        return self.state.norm_rms / _rms(self.norms)

    @classmethod
    def of(
        cls, view: ParameterView, norms: Sequence[float | None], now: Settings, decays: Memory, age: int = 0
    ) -> "Present | None":
        """From a parameter's newest row, recorded `age` steps ago under `now`; None where too little is recorded."""
        mean, rms, raw, scale = view.norm_mean, view.norm_rms, view.raw_norm, view.scale
        calm = calm_norms(norms)
        if not mean or not rms or not calm:
            return None
        state = TensorState(
            norm_sum=mean * decays.norm_weight,
            norm_weight=decays.norm_weight,
            square_sum=rms * rms * decays.square_weight,
            square_weight=decays.square_weight,
        )
        if scale and now.mode is not Mode.STABILIZE:
            state.gain = scale
        elif scale and raw:
            state.unit = scale * raw / (target(mean, rms, now.eps) * _faded(view, now, decays.square_weight))
        _pass(state, calm, now, age)
        return cls(view.name, state, calm)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What follows for one tensor.

    Attributes:
        target: Now.
        targets: The expected target, by the number of steps from now.
        throttled_for: Steps until it has recovered; 0: it is not throttled, or no longer from the next step on;
            None: it does not recover while norms stay as they are.
        sizes: The norm that the optimizer is expected to see, times `lr_scale`, as a multiple of the present one; by
            the number of steps from now.
    """

    name: str
    target: float
    targets: Mapping[int, float]
    throttled_for: int | None
    sizes: Mapping[int, float]


def calm_norms(norms: Sequence[float | None]) -> list[float]:
    """The newest of `norms` without spikes, zeros and those that are not finite, in ascending order."""
    usable = [norm for norm in norms if norm is not None and 0 < norm < math.inf]
    middle = median(usable) if usable else 0.0
    return sorted([norm for norm in usable if norm <= SPIKE_RATIO * middle][-_RECENT:])


def memory(entries: Sequence[AuditEntry], now: Settings, step: int) -> Memory:
    """How full the moving averages are at `step`.

    Args:
        entries: The run's changes, newest first.
        now: The settings in force.
        step: The newest step, counted from the run's first one.
    """
    kept1 = kept2 = 1.0
    gamma1, gamma2, end, applied_at = now.gamma1, now.gamma2, step, None
    for entry in entries:
        if entry.state is RevisionState.APPLIED and entry.applied_step is not None:
            applied_at = entry.applied_step
        elif entry.state is not RevisionState.SUPERSEDED or applied_at is None:
            continue  # not in force. A superseded one came into force together with its successor.
        taken = max(0, end - applied_at + 1)
        kept1, kept2, end = kept1 * gamma1**taken, kept2 * gamma2**taken, min(end, applied_at - 1)
        if "reset_generation" in entry.after:
            end = 0
            break
        gamma1, gamma2 = _decay(entry, "gamma1", gamma1), _decay(entry, "gamma2", gamma2)
    kept1, kept2 = kept1 * gamma1 ** max(0, end), kept2 * gamma2 ** max(0, end)
    return Memory(max(1 - kept1, 1 - now.gamma1), max(1 - kept2, 1 - now.gamma2))


def candidates(parameters: ParameterList) -> list[ParameterView]:
    """The tensors that may be throttled most: those with the smallest targets, and those that spike just now.

    Right after a spike the target is large, until the mean norm has forgotten it.
    """
    known = [each for each in parameters.parameters if each.target is not None]
    lowest = sorted(known, key=lambda each: each.target or 0.0)[:_WORST]
    spiked = sorted(known, key=lambda each: -(each.spike_ratio or 0.0))[:_WORST]
    return list({each.name: each for each in (*lowest, *spiked)}.values())


def recent(run: RunDetail) -> int:
    """The step from which norms of `run` are recent."""
    return max(0, run.step - _RECENT * run.detail_every)


def present(
    run: RunDetail, views: Sequence[ParameterView], norms: SeriesResponse, entries: Sequence[AuditEntry], step: int
) -> list[Present]:
    """Those of `views` whose updates are smallest now, the smallest first.

    Args:
        run: The run.
        views: The newest rows of some tensors.
        norms: The recent norms of those tensors, as series `raw_norm/NAME`.
        entries: The run's changes, newest first.
        step: Of the rows.
    """
    now = run.applied.settings
    decays = memory(entries, now, step)
    found = []
    for view in views:
        series = norms.series.get(f"raw_norm/{view.name}")
        tensor = Present.of(view, series.mean if series else [], now, decays, max(0, run.step - step))
        found += [tensor] if tensor is not None else []
    return sorted(found, key=lambda tensor: -tensor.shortfall)[:_WORST]


def forecast(tensor: Present, was: Settings, now: Settings) -> Outlook:
    """What follows where the settings `now` take the place of `was` at the next step. Both may be the same."""
    state, mean = replace(tensor.state), fmean(tensor.norms)
    before = target(state.norm_mean, state.norm_rms, was.eps)
    size = _size(state, mean, was)
    if now.reset_generation > was.reset_generation:
        reset(state)
    advance(state, mean, now, was.mode)

    def after(steps: int) -> TensorState:
        later = replace(state)
        _pass(later, tensor.norms, now, steps - 1)
        return later

    states = {steps: after(steps) for steps in HORIZONS}
    return Outlook(
        name=tensor.name,
        target=before,
        targets={steps: target(each.norm_mean, each.norm_rms, now.eps) for steps, each in states.items()},
        throttled_for=_throttled_for(before, now, after),
        sizes={steps: _size(each, mean, now) / size if size > 0 else 1.0 for steps, each in states.items()},
    )


def throttled_words(steps: int | None, *, was: bool = True) -> str:
    """How long throttling lasts: `throttled for about 2,900 more steps`. was: whether it is throttled now."""
    if steps is None:
        return "throttled for as long as norms stay as they are"
    if steps == 0:
        return "ends at once" if was else "not throttled"
    return f"throttled for about {about(steps)} more step{'s' if steps > 1 else ''}"


def about(steps: int) -> str:
    """A number of steps in two digits: 4,237 is about 4,200."""
    return f"{int(float(f'{steps:.2g}')):,}"


def consequences(was: Settings, now: Settings, outlooks: Sequence[Outlook], health: Health) -> list[str]:
    """Sentences about what the targets of `outlooks` do not show. health: of the run, now."""
    said = []
    small = any(each.target < THROTTLED_TARGET for each in outlooks)
    throttled = small and health is not Health.CALM  # by a spike: only that is told as trouble
    resets = now.reset_generation > was.reset_generation
    limited = now.spike_limit is not None and now.spike_limit != was.spike_limit
    if small and not throttled:
        said.append(
            "Targets are small because norms fall faster than gamma2 forgets, not because of a spike: a spike_limit "
            "does not raise them. gamma2=0.99 forgets sooner, a reset at once; it may need neither."
        )
    if limited and throttled and not resets:
        said.append(
            "spike_limit keeps the next spike out of the statistics. It does not end the throttling that is there: "
            "reset the statistics for that."
        )
    if now.spike_fade and (now.spike_fade, now.spike_limit) != (was.spike_fade, was.spike_limit):
        said.append(
            "spike_fade does nothing without a spike_limit: set spike_limit=3 with it."
            if now.spike_limit is None
            else f"spike_fade: a step of {4 * now.spike_limit:g} times the usual norm counts a sixteenth, one of a "
            "thousand times as good as nothing; a rise that lasts counts in full after some ten steps."
        )
    if now.lr_scale != was.lr_scale:
        change = f"{now.lr_scale / was.lr_scale:.3g} times as large" if was.lr_scale else "no longer zero"
        said.append(
            "lr_scale 0: no update changes the weights, from the next step on."
            if now.lr_scale == 0
            else f"lr_scale: every update is {change} from the next step on; targets stay as they are."
        )
    if now.lr != was.lr:
        said.append(
            "lr: the program's own rates apply again; sizes here are without that."
            if now.lr is None
            else f"lr: the first parameter group steps with {now.lr:g}, the others in proportion; sizes here are "
            "without that."
        )
    if turned := [f"knob.{name}" for name, value in now.knobs.items() if was.knobs.get(name, value) != value]:
        said.append(f"{', '.join(turned)}: what that does only the training loop knows; nothing is predicted.")
    if now.mode is not was.mode:
        said += _mode_words(was, now, small and not resets)
    return said


def _mode_words(was: Settings, now: Settings, throttled: bool) -> list[str]:
    said = []
    if now.mode is Mode.OFF:
        said.append("off: nothing is measured, and spikes reach the optimizer.")
    elif now.mode is Mode.OBSERVE:
        said.append("observe: spikes reach the optimizer.")
    elif now.mode is Mode.CLIP:
        limit = "a limit from recent total norms" if isinstance(now.clip_norm, str) else f"{now.clip_norm:g}"
        said.append(
            f"clip: where the total norm is above {limit}, all gradients are reduced alike. The sizes here are those "
            "before that."
        )
    if throttled and now.transfer is Transfer.BUMPLESS and Mode.STABILIZE in (was.mode, now.mode):
        said.append(
            "The scale that throttling gives to gradients now is carried over into the new mode and stays there: "
            "reset the statistics first."
        )
    return said


def _decay(entry: AuditEntry, name: str, now: float) -> float:
    before = entry.before.get(name)
    return float(before) if isinstance(before, int | float) else now


def _pass(state: TensorState, norms: Sequence[float], settings: Settings, steps: int) -> None:
    """Advance `state` by the steps' expected samples. norms: in ascending order."""
    if settings.mode is Mode.OFF:
        return
    usual, coarse = _rms(norms), steps // 1000  # at most a thousand parts, however long
    while steps > 0:
        count, samples = steps, norms
        if settings.spike_limit is not None and state.norm_rms > 0:
            if norms[-1] > settings.spike_limit * min(state.norm_rms, usual):
                # What is clipped depends on the RMS norm, which changes little within this many steps.
                count = min(steps, max(1, coarse, int(0.01 / (1 - settings.gamma2))))
            samples = [min(norm, settings.spike_limit * state.norm_rms) for norm in norms]
        kept1, kept2 = settings.gamma1**count, settings.gamma2**count
        state.norm_sum = kept1 * state.norm_sum + (1 - kept1) * fmean(samples)
        state.norm_weight = kept1 * state.norm_weight + (1 - kept1)
        state.square_sum = kept2 * state.square_sum + (1 - kept2) * fmean(norm * norm for norm in samples)
        state.square_weight = kept2 * state.square_weight + (1 - kept2)
        steps -= count


def _rms(norms: Sequence[float]) -> float:
    return math.sqrt(fmean(norm * norm for norm in norms))


def _faded(view: ParameterView, now: Settings, square_weight: float) -> float:
    """The factor by which `spike_fade` reduced the newest step's target."""
    if not (now.spike_fade and now.spike_limit is not None and view.raw_norm and view.norm_rms):
        return 1.0
    # The RMS norm of the step before, if the sample was limited; if it was not, this gives a factor of 1 all the same.
    kept = 1 - (1 - now.gamma2) / square_weight
    before = view.norm_rms / math.sqrt(kept + (1 - kept) * now.spike_limit**2)
    return fade(
        view.raw_norm, before, view.raw_norm / view.spike_ratio if view.spike_ratio else math.inf, now.spike_limit
    )


def _size(state: TensorState, norm: float, settings: Settings) -> float:
    if settings.mode is Mode.STABILIZE:
        return state.unit * target(state.norm_mean, state.norm_rms, settings.eps) * settings.lr_scale
    return state.gain * norm * settings.lr_scale


def _throttled_for(before: float, now: Settings, after: Callable[[int], TensorState]) -> int | None:
    """after: the state that many steps from now."""

    def recovered(steps: int) -> bool:
        state = after(steps)
        return target(state.norm_mean, state.norm_rms, now.eps) >= RECOVERED_TARGET

    # Right after a spike the mean norm is large as well: whether it is throttled shows when that has been forgotten.
    settled = math.ceil(math.log(0.01) / math.log(now.gamma1)) if now.gamma1 > 0 else 1
    if recovered(settled) and (before >= THROTTLED_TARGET or recovered(1)):
        return 0
    longest = math.ceil(_FORGOTTEN / (1 - now.gamma2))
    low, high = 1, settled
    while not recovered(high):
        if high > longest:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if recovered(middle) else (middle, high)
    return high
