"""Events and health derived from step scalars. Pure: (signals, new scalars) to (signals, events).

One event reports a whole burst: spikes (or non-finite gradients) in consecutive steps are one event at the worst of
them, also when the burst continues in the next batch, unless it doubles. Counters are exact regardless.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.rule import THROTTLED_TARGET
from steadynorm_contract.runs import Health

RECENT_STEPS = 100
"""A run's health is judged by its last steps, this many."""

RECOVERED_TARGET = 1.1 * THROTTLED_TARGET
"""Hysteresis, so that a target at the threshold is not an event every step."""

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


def count(value: float) -> int:
    """A count that was sent as a float; 0 where it is no valid count."""
    return int(value) if math.isfinite(value) and value > 0 else 0


def is_quiet(signals: Signals, scalars: Scalars) -> bool:
    """Whether `observe` would find nothing; decided without looking at single steps."""
    return (
        not any(scalars.spikes)
        and not any(scalars.nonfinite)
        and not signals.throttled
        and not any(target < THROTTLED_TARGET for target in scalars.target_min)
    )


def observe(
    signals: Signals,
    scalars: Scalars,
    name: Callable[[float], str | None],
    batch_ids: Mapping[int, str] | None = None,
) -> list[Event]:
    """Events of a batch, in step order; updates `signals`.

    name: looks up a parameter by its index. batch_ids: by step, the training loop's name of its data.
    """
    if is_quiet(signals, scalars):
        return []
    alarms = [
        *_bursts(EventKind.SPIKE, signals, scalars, name, "spike"),
        *_bursts(EventKind.NONFINITE, signals, scalars, name, "nonfinite"),
    ]
    if batch_ids:
        alarms = [msgspec.structs.replace(event, batch_id=batch_ids.get(event.step)) for event in alarms]
    return sorted([*alarms, *_targets(signals, scalars, name)], key=lambda event: event.step)


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
            message = f"the gradient norm of {shown} was {size:.4g} times its RMS norm"
        else:
            message = f"the gradient of {shown} was NaN or infinite"
        message += f", with {others} other parameters" if others > 0 else ""
        message += f"; {len(burst)} steps in a row" if len(burst) > 1 else ""
        step, time = scalars.steps[worst], scalars.times[worst]
        events.append(
            Event(id="", kind=kind, step=step, time=time, message=message + ".", parameter=parameter, value=size)
        )
    return sorted(events, key=lambda event: event.value or 0.0, reverse=True)[:MAX_EVENTS_A_BATCH]


def _targets(signals: Signals, scalars: Scalars, name: Callable[[float], str | None]) -> list[Event]:
    events = []
    for at, target in enumerate(scalars.target_min):
        if not signals.throttled and target < THROTTLED_TARGET:
            signals.throttled = True
            kind, parameter = EventKind.THROTTLED, name(scalars.target_parameter[at])
            message = (
                f"the target of {parameter or 'a parameter'} fell to {target:.3g}: an old spike throttles its update. "
                "Reset the statistics, or set a spike_limit."
            )
        elif signals.throttled and RECOVERED_TARGET <= target < math.inf:
            signals.throttled = False
            kind, parameter = EventKind.RECOVERED, None
            message = f"no parameter is throttled now; the smallest target is {target:.3g}."
        else:
            continue
        events.append(
            Event(
                id="",
                kind=kind,
                step=scalars.steps[at],
                time=scalars.times[at],
                message=message,
                parameter=parameter,
                value=target,
            )
        )
    return events[-MAX_EVENTS_A_BATCH:]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
