"""What a training loop may log of a step, checked, and without a wait for a device."""

from __future__ import annotations

from torch import Tensor

from steadynorm_contract.records import MAX_BATCH_ID_LENGTH

__all__ = ["batch_name", "loss_value"]


def loss_value(loss: object) -> float | Tensor:
    """A number, or a 0-dim tensor that stays on its accelerator. Raises TypeError or ValueError."""
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise ValueError(f"loss must be one number: got shape {tuple(loss.shape)}. Use loss.mean().")
        if loss.device.type == "cpu":
            return float(loss.detach())  # in host memory: no wait, where copying it to a device would be one
        return loss.detach().reshape(())
    try:
        return float(loss)  # type: ignore[arg-type]  # numpy's scalars and the like: float() knows
    except (TypeError, ValueError):
        raise TypeError(f"loss must be a number or a tensor: got {type(loss).__name__}.") from None


def batch_name(batch_id: object) -> str:
    """What a step's data is called, as text. Raises TypeError or ValueError."""
    if isinstance(batch_id, bool) or not isinstance(batch_id, str | int):
        raise TypeError(f"batch_id must be a string or a whole number: got {type(batch_id).__name__}. Use str().")
    text = batch_id if isinstance(batch_id, str) else str(batch_id)
    if len(text) > MAX_BATCH_ID_LENGTH:
        raise ValueError(
            f"batch_id must have at most {MAX_BATCH_ID_LENGTH} characters: got {len(text)}. "
            'Name where the data came from, such as "shard3:1042", not the data.'
        )
    return text
