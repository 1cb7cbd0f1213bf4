"""What is done about an alarm: which snapshot, how far the rate is held back, and when to give up.

One fault, however many steps it lasts, is one alarm and one cut of the rate. An alarm soon after a rollback is the same
fault. If it went on after the rollback and is over, the same rollback is made once more, for nothing; if it stays, or
comes again, it may have begun before the snapshot: the next goes to an older one, and at a smaller rate.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from steadynorm.recovery.orders import MAX_REASON_LENGTH, Action, Order
from steadynorm.recovery.watch import Alarm
from steadynorm.recovery_options import Recovery
from steadynorm_contract.settings import RecoveryMode


class Policy:
    """Decides, on rank 0."""

    def __init__(self, recovery: Recovery) -> None:
        self._recovery = recovery
        self._alarms: list[int] = []  # steps of those that were acted on
        self._last: Order | None = None
        self._last_step = 0
        self._repeated = False  # whether the last rollback was made again, once its fault was over

    def budget_left(self, step: int) -> int:
        """Automatic rollbacks that are left at this step."""
        self._alarms = [each for each in self._alarms if each > step - self._recovery.budget_steps]
        return max(0, self._recovery.max_rollbacks - len(self._alarms))

    def decide(self, alarm: Alarm, step: int, good: Sequence[int], mode: RecoveryMode) -> Order:
        """What to do at `step` about `alarm`. good: steps of the good snapshots, the oldest first."""
        recovery, last = self._recovery, self._last
        reason = alarm.reason[:MAX_REASON_LENGTH]
        if mode is RecoveryMode.ADVISE:
            newest = good[-1] if good else None
            return Order(action=Action.ADVISE, to_step=newest, reason=reason)
        if alarm.same and not self._repeated and last is not None and last.to_step in good:
            self._repeated, self._last_step = True, step
            return msgspec.structs.replace(last, reason=reason)
        if not good:
            return Order(action=Action.ROLL_BACK, to_step=None, reason=reason)
        self._repeated = False
        if not self.budget_left(step):
            return Order(action=Action.GIVE_UP, to_step=None, reason=reason)
        self._alarms.append(step)
        again = last is not None and last.to_step is not None and step - self._last_step <= 2 * recovery.every_steps
        held_lr, candidates = recovery.held_lr, list(good)
        if again and last is not None and last.to_step is not None:
            held_lr = last.held_lr / 2
            candidates = [each for each in good if each < last.to_step] or candidates[:1]
        to_step = candidates[-1]
        order = Order(action=Action.ROLL_BACK, to_step=to_step, reason=reason, held_lr=held_lr)
        self._last, self._last_step = order, step
        return order
