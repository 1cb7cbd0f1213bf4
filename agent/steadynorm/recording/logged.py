"""What a training loop passes to `agent.log()`, validated."""

from __future__ import annotations

import math
import operator
from typing import NamedTuple

from torch import Tensor

from steadynorm.recording.scalars import Values, whole
from steadynorm_contract.codec import encodable
from steadynorm_contract.notes import MAX_NOTE_LENGTH
from steadynorm_contract.telemetry import MAX_BATCH_ID_LENGTH


class Logged(NamedTuple):
    """What a call of `agent.log()` says; None: nothing."""

    loss: float | Tensor | None
    batch_id: str | None
    step: int | None
    scalars: Values = {}  # noqa: RUF012 # of a NamedTuple; nobody writes to it


def validate_logged(loss: object, batch_id: object, step: object) -> Logged:
    """The arguments with meanings of their own of `agent.log()`. Raises TypeError or ValueError."""
    return Logged(
        None if loss is None else loss_value(loss),
        None if batch_id is None else validate_batch_id(batch_id),
        None if step is None else validate_step(step),
    )


def loss_value(loss: object) -> float | Tensor:
    """A number, or a 0-dim tensor that stays on its accelerator. Raises TypeError or ValueError."""
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise ValueError(f"loss must be one number: got shape {tuple(loss.shape)}. Use loss.mean().")
        if loss.is_complex() or loss.is_meta:
            raise ValueError(f"loss must be a real number: got {loss.dtype} on {loss.device}. Use loss.abs() or .real.")
        loss = whole("loss", loss)
        if loss.device.type == "cpu":
            return float(loss.detach())  # in host memory: no wait, where copying it to a device would be one
        return loss.detach().reshape(())
    try:
        return float(loss)  # type: ignore[arg-type]  # numpy's scalars and the like: float() knows
    except OverflowError:
        return math.inf
    except Exception:  # of its own code too
        raise TypeError(f"loss must be a number or a tensor of one element: got {type(loss).__name__}.") from None


def validate_batch_id(batch_id: object) -> str:
    """The batch's identifier as text. Raises TypeError or ValueError."""
    if isinstance(batch_id, bool) or not isinstance(batch_id, str | int):
        raise TypeError(f"batch_id must be a string or a whole number: got {type(batch_id).__name__}. Use str().")
    text = encodable(str(batch_id))
    if len(text) > MAX_BATCH_ID_LENGTH:
        raise ValueError(
            f"batch_id must have at most {MAX_BATCH_ID_LENGTH} characters: got {len(text)}. "
            'Name where the data came from, such as "shard3:1042", not the data.'
        )
    return text


def validate_step(step: object) -> int:
    """The loop's number of a step. Raises TypeError or ValueError."""
    if isinstance(step, bool) or not hasattr(step, "__index__") or isinstance(step, Tensor):
        raise TypeError(f"step must be a whole number: got {type(step).__name__}. Use int().")
    number = operator.index(step)
    if not 0 <= number < 2**53:
        raise ValueError(f"step must be in [0, 2**53): got {number}. Pass the loop's number of the optimizer step.")
    return number


def validate_note(text: object) -> str:
    """The text of a note. Raises TypeError or ValueError."""
    if not isinstance(text, str):
        raise TypeError(f"the text of a note must be a string: got {type(text).__name__}. Use str().")
    stripped = encodable(text.strip())
    if not stripped or len(stripped) > MAX_NOTE_LENGTH:
        raise ValueError(f"a note must have 1 to {MAX_NOTE_LENGTH} characters: got {len(stripped)}.")
    return stripped
