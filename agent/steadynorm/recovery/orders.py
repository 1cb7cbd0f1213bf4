"""What rank 0 decides about recovery, and what training code is told of a rollback."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import msgspec

MAX_REASON_LENGTH = 300


class Action(enum.StrEnum):
    """What is to be done at this boundary."""

    ROLL_BACK = "roll_back"
    ADVISE = "advise"  # tell what would be done
    GIVE_UP = "give_up"  # the budget is spent: pause or stop


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, the same on all ranks at the same boundary."""

    action: Action
    to_step: int | None  # of the snapshot; None: there is none
    reason: str
    held_lr: float = 1.0  # factor on the learning rate for the time afterwards


class News(msgspec.Struct, frozen=True):
    """What rank 0 tells the others with each exchange. evaluated: steps that raised no alarm that is not told here."""

    evaluated: int = 0
    order: Order | None = None
    offset: int = 0  # of the numbers under which steps are recorded
    numbers: dict[int, int] = {}  # under which the steps of snapshots were recorded
    fault_until: int = 0  # what was saved up to this step, and is not confirmed, has a fault in it


@dataclass(frozen=True, slots=True)
class RollbackEvent:
    """What a callback of `agent.on_rollback` is called with.

    Attributes:
        from_step: The last step that was taken, whose weights are gone. The next one is `from_step + 1`.
        to_step: The step after which the present weights were saved.
        reason: The detector and its figures, or who asked for it.
        batch_ids: What the loop logged on this rank as the data of the steps in between, the newest 1,000 of them.
    """

    from_step: int
    to_step: int
    reason: str
    batch_ids: tuple[str, ...] = ()
