"""Events and health derived from step scalars. Pure: (signals, new scalars) to (signals, events).

One event reports a whole burst: spikes (or non-finite gradients) in consecutive steps are one event at the worst of
them, also when the burst continues in the next batch, unless it doubles. Counters are exact regardless.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.rule import RECOVERED_TARGET, THROTTLED_TARGET, spike_ceiling, spike_memory
from steadynorm_contract.runs import Health
from steadynorm_contract.settings import Settings, keeps_spikes_out
from steadynorm_contract.words import counted

RECENT_STEPS = 100
"""A run's health is judged by its last steps, this many."""

RECOVERY_STEPS = 10
"""A run has recovered after so many steps in a row in which no spike held an update back, and none came."""

FALLING_STEPS = 100
"""An event says that norms fall after so many steps in a row with a small target and no spike."""

MAX_AUDIT = 10_000
"""Audit entries of a run, and reports of its agent on revisions; the oldest are dropped."""

MAX_EVENTS = 2000
"""Of a run; the oldest are dropped."""

MAX_EVENTS_A_BATCH = 20
"""Of each kind, the worst ones, so that a storm does not fill the stream."""


class Signals(msgspec.Struct):
    """State of a run between batches."""

    throttled: bool = False
    spike_step: int | None = None  # last step with a spike
    spike_peak: float = 0.0  # largest ratio of its burst so far
    nonfinite_step: int | None = None  # last step with a non-finite gradient
    nonfinite_peak: float = 0.0  # most parameters in a step of its burst so far
    cause_step: int | None = None  # of the spike that throttles the run, or would first
    cause_ratio: float = 0.0
    cause_until: int = 0  # the step until which it can
    calm_steps: int = 0  # of a throttled run, see RECOVERY_STEPS
    throttled_step: int | None = None  # last step that a spike held back
    falling: bool = False  # see FALLING_STEPS
    small_since: int | None = None  # first of the present steps in a row with a small target and no spike


class Scalars(msgspec.Struct, frozen=True):
    """The columns of step scalars that events are made from; all of one length."""

    steps: Sequence[int]
    times: Sequence[float]
    target_min: Sequence[float]
    target_parameter: Sequence[float]
    spike_ratio_max: Sequence[float]
    spike_parameter: Sequence[float]
    spikes: Sequence[float]
    nonfinite: Sequence[float]
    nonfinite_parameter: Sequence[float]
    throttled: Sequence[float]


def new_event(
    kind: EventKind, step: int, time: float, message: str, value: float | None = None, parameter: str | None = None
) -> Event:
    """An event that is not stored yet: its id is that of its entry in Redis."""
    return Event(id="", kind=kind, step=step, time=time, message=message, value=value, parameter=parameter)


def count(value: float) -> int:
    """A count that was sent as a float; 0 where it is no valid count."""
    return int(value) if math.isfinite(value) and value > 0 else 0


def is_quiet(signals: Signals, scalars: Scalars) -> bool:
    """Whether `observe` would find nothing; decided without looking at single steps."""
    return not (
        any(scalars.spikes)
        or any(scalars.nonfinite)
        or signals.throttled
        or any(scalars.throttled)
        or signals.small_since is not None
        or any(map(THROTTLED_TARGET.__gt__, scalars.target_min))
    )


def observe(
    signals: Signals,
    scalars: Scalars,
    name: Callable[[float], str | None],
    batch_ids: Mapping[int, str] | None = None,
    settings: Settings | None = None,
    *,
    attributed: bool = True,
) -> list[Event]:
    """Events of a batch, in step order; updates `signals`.

    name: looks up a parameter by its index. batch_ids: by step, the training loop's name of its data. settings: in
    force. attributed: `throttled` counts what a spike throttles; otherwise, from an older agent, whatever the cause,
    and it counts here only while a recorded spike can be the cause.
    """
    if is_quiet(signals, scalars):
        return []
    alarms = [
        *_bursts(EventKind.SPIKE, signals, scalars, name, "spike"),
        *_bursts(EventKind.NONFINITE, signals, scalars, name, "nonfinite"),
    ]
    if batch_ids:
        alarms = [msgspec.structs.replace(event, batch_id=batch_ids.get(event.step)) for event in alarms]
    settings = settings or Settings()
    targets = [
        *_targets(signals, scalars, name, settings, attributed),
        *_falling(signals, scalars, name, settings, attributed),
    ]
    return sorted([*alarms, *targets], key=lambda event: event.step)


def health(signals: Signals, step: int, stalled: bool, connected: bool = True) -> Health:
    """Health at `step`, the worst that applies. connected: the agent recently sent telemetry or polled."""

    def recent(then: int | None) -> bool:
        return then is not None and 0 <= step - then < RECENT_STEPS

    if recent(signals.nonfinite_step):
        return Health.NONFINITE
    if recent(signals.spike_step):
        return Health.SPIKING
    if signals.throttled:
        return Health.THROTTLED
    if stalled:
        return Health.STALLED if connected else Health.DISCONNECTED
    return Health.CALM


def _consecutive(steps: Sequence[int], hits: Sequence[float]) -> Iterator[list[int]]:
    """Indices of consecutive steps with hits."""
    burst: list[int] = []
    for at, hit in enumerate(hits):
        if not count(hit):
            continue
        if burst and steps[at] - steps[burst[-1]] not in (0, 1):
            yield burst
            burst = []
        burst.append(at)
    if burst:
        yield burst


def _bursts(
    kind: EventKind, signals: Signals, scalars: Scalars, name: Callable[[float], str | None], state: str
) -> list[Event]:
    """Events of spikes or of non-finite gradients. state: prefix of the fields of `signals` that belong to them."""
    if kind is EventKind.SPIKE:
        hits, parameters, sizes = scalars.spikes, scalars.spike_parameter, [*map(_finite, scalars.spike_ratio_max)]
    else:
        hits, parameters = scalars.nonfinite, scalars.nonfinite_parameter
        sizes = [float(count(hit)) for hit in hits]
    events = []
    for burst in _consecutive(scalars.steps, hits):
        worst = max(burst, key=sizes.__getitem__)
        size, last, peak = sizes[worst], getattr(signals, f"{state}_step"), getattr(signals, f"{state}_peak")
        continues = last is not None and scalars.steps[burst[0]] - last in (0, 1)
        setattr(signals, f"{state}_step", scalars.steps[burst[-1]])
        setattr(signals, f"{state}_peak", max(size, peak) if continues else size)
        if continues and size < 2 * peak:
            continue  # reported already
        parameter = name(parameters[worst])
        shown, others = parameter or "a parameter", max(count(hits[at]) for at in burst) - 1
        if kind is EventKind.SPIKE:
            message = f"the gradient norm of {shown} was {size:.4g} times its baseline"
        else:
            message = f"the gradient of {shown} was NaN or infinite"
        message += f", with {counted(others, 'other parameter')}" if others > 0 else ""
        message += f"; {len(burst)} steps in a row" if len(burst) > 1 else ""
        events.append(new_event(kind, scalars.steps[worst], scalars.times[worst], message + ".", size, parameter))
    return sorted(events, key=lambda event: event.value or 0.0, reverse=True)[:MAX_EVENTS_A_BATCH]


def _targets(
    signals: Signals, scalars: Scalars, name: Callable[[float], str | None], settings: Settings, attributed: bool
) -> list[Event]:
    """Throttled and recovered. After a spike the mean norm, and with it the target, is large for some steps."""
    ceiling, gamma1 = spike_ceiling(settings.gamma1, settings.gamma2), settings.gamma1
    tail = int(math.log(RECOVERED_TARGET / ceiling, gamma1)) if gamma1 > 0 and ceiling > RECOVERED_TARGET else 0
    # As a spike is forgotten the target rises through the hysteresis in half of this. Whatever rests there for longer
    # has another reason, such as norms that fall.
    wait = 2 * math.log(THROTTLED_TARGET / RECOVERED_TARGET) * 2 / math.log(settings.gamma2) if settings.gamma2 else 0

    def last_held(step: int) -> int:
        if signals.throttled_step is None or signals.throttled_step > step:  # an older record, a loaded checkpoint
            signals.throttled_step = step
        return signals.throttled_step

    events = []
    for at, (step, target) in enumerate(zip(scalars.steps, scalars.target_min, strict=True)):
        if count(scalars.spikes[at]):
            _remember_cause(signals, step, _finite(scalars.spike_ratio_max[at]), settings.gamma2)
            signals.calm_steps = -tail
        elif count(scalars.throttled[at]) and (attributed or step <= signals.cause_until):
            signals.calm_steps, signals.throttled_step = 0, step
            if signals.throttled:
                continue
            signals.throttled = True
            parameter, cause = name(scalars.target_parameter[at]), signals.cause_step
            spike = "an old spike" if cause is None else f"the spike at step {cause}, ×{signals.cause_ratio:.4g},"
            prevented = "" if keeps_spikes_out(settings) else "; preset=robust keeps the next spike out"
            message = (
                f"the target of {parameter or 'a parameter'} fell to {target:.3g}: {spike} holds its update back. "
                f"Reset the statistics{prevented}."
            )
            events.append(new_event(EventKind.THROTTLED, step, scalars.times[at], message, target, parameter))
        elif signals.throttled and THROTTLED_TARGET <= target < RECOVERED_TARGET and step - last_held(step) <= wait:
            signals.calm_steps = 0
        elif signals.throttled and math.isfinite(target):
            signals.calm_steps += 1
            if signals.calm_steps >= RECOVERY_STEPS:
                signals.throttled, signals.calm_steps = False, 0
                signals.cause_step, signals.cause_until = None, 0
                message = f"no spike holds an update back any more; the smallest target is {target:.3g}."
                events.append(new_event(EventKind.RECOVERED, step, scalars.times[at], message, target))
    return events[-MAX_EVENTS_A_BATCH:]


def _falling(
    signals: Signals, scalars: Scalars, name: Callable[[float], str | None], settings: Settings, attributed: bool
) -> list[Event]:
    """The beginning of small targets that last and that no spike explains.

    Not in a run's first 1 / (1 - gamma2) steps, in which most runs' norms fall fast.
    """
    events = []
    for at, (step, target) in enumerate(zip(scalars.steps, scalars.target_min, strict=True)):
        held = count(scalars.throttled[at]) and (attributed or step <= signals.cause_until)
        if held or target >= RECOVERED_TARGET or (signals.small_since is not None and step < signals.small_since):
            signals.falling, signals.small_since = False, None
        elif target < THROTTLED_TARGET and signals.small_since is None:
            signals.small_since = step
        if signals.small_since is None or signals.falling or step * (1 - settings.gamma2) < 1:
            continue
        if step - signals.small_since + 1 >= FALLING_STEPS:
            signals.falling = True
            parameter = name(scalars.target_parameter[at])
            message = (
                f"the target of {parameter or 'a parameter'} is {target:.3g}, and below {THROTTLED_TARGET:g} since "
                f"step {signals.small_since}: norms fall faster than gamma2 forgets, and no spike is the cause. "
                "It may need nothing; gamma2=0.99 forgets sooner, a spike_limit does not help."
            )
            events.append(new_event(EventKind.FALLING, step, scalars.times[at], message, target, parameter))
    return events[-MAX_EVENTS_A_BATCH:]


def _remember_cause(signals: Signals, step: int, ratio: float, gamma2: float) -> None:
    """Of several spikes, the one that can throttle the longest."""
    until = step + math.ceil(spike_memory(ratio, gamma2, step))
    if signals.cause_step is None or step < signals.cause_step or until >= signals.cause_until:
        signals.cause_step, signals.cause_ratio, signals.cause_until = step, ratio, until


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
