"""What throttles a run: the spike that did it, how much smaller updates are, and for how much longer."""

from __future__ import annotations

from collections.abc import Sequence

from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.forecast import Outlook, Present, about
from steadynorm_dashboard.formatting import numbers
from steadynorm_dashboard.formatting.outlook import longest

_DELAY_STEPS = 100
"""A spike throttles within some tens of steps, once the mean norm has forgotten it."""


def current(events: Sequence[Event]) -> Event | None:
    """The event that began the throttling that is there; None if there is none. events: newest first."""
    kinds = (EventKind.THROTTLED, EventKind.RECOVERED)
    newest = next((one for one in events if one.kind in kinds), None)
    return newest if newest is not None and newest.kind is EventKind.THROTTLED else None


def cause(throttled: Event, events: Sequence[Event]) -> Event | None:
    """The spike that throttled: the newest one of that tensor shortly before, else the newest of any tensor.

    One event reports the spikes of a step in all tensors, and names the one in which it was largest.
    """
    spikes = [one for one in events if one.kind is EventKind.SPIKE and one.step <= throttled.step]
    spikes.sort(key=lambda one: (-one.step, one.id))
    of_it = (
        one for one in spikes if one.parameter == throttled.parameter and throttled.step - one.step <= _DELAY_STEPS
    )
    return next(of_it, spikes[0] if spikes else None)


def spike_words(spike: Event) -> str:
    """`spike ×45 in blocks.1.norm2.bias at step 421, batch shard-006/37`. Not escaped."""
    size = f" ×{numbers.number(spike.value, 3)}" if spike.value else ""
    where = f" in {spike.parameter}" if spike.parameter else ""
    batch = f", batch {spike.batch_id}" if spike.batch_id else ""
    return f"spike{size}{where} at step {spike.step:,}{batch}"


def extent_words(tensors: Sequence[Present], outlooks: Sequence[Outlook]) -> str:
    """`updates are 830 times too small, for about 4,200 more steps`. outlooks: of `tensors`, without a change."""
    steps = longest(outlooks)
    if not tensors or steps == 0:
        return ""
    times = max(one.shortfall for one in tensors)
    small = f"updates are {about(round(times)) if times >= 10 else numbers.number(times, 2)} times too small"
    return f"{small}, for about {about(steps)} more steps" if steps is not None else small
