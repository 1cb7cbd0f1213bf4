"""`attach(sinks=...)`: names of tools, and objects that write."""

from __future__ import annotations

from collections.abc import Iterable

from steadynorm.sinks.base import Sink, Tool
from steadynorm.sinks.mlflow import MLflow
from steadynorm.sinks.tensorboard import TensorBoard
from steadynorm.sinks.trackio import Trackio
from steadynorm.sinks.wandb import Wandb

TOOLS: dict[str, type[Tool]] = {"wandb": Wandb, "tensorboard": TensorBoard, "mlflow": MLflow, "trackio": Trackio}


def choose_sinks(given: object) -> tuple[Sink, ...]:
    """The sinks. Raises TypeError or ValueError, and ModuleNotFoundError for a tool that is not installed."""
    if given is None:
        return ()
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f'sinks must be a list: got {type(given).__name__}. Use sinks=["wandb"].')
    chosen = [_sink(each) for each in given]
    for sink in chosen:
        if isinstance(sink, Tool):
            sink.check()
    if len({id(sink) for sink in chosen}) < len(chosen):
        raise ValueError("each sink must be given once: got one twice. Remove the duplicate.")
    return tuple(chosen)


def _sink(given: object) -> Sink:
    if isinstance(given, str):
        if given not in TOOLS:
            raise ValueError(f"sinks must be among {', '.join(TOOLS)}, or objects with write(): got {given[:60]!r}.")
        return TOOLS[given]()
    if isinstance(given, type) or not callable(getattr(given, "write", None)):
        raise TypeError(
            f"a sink must be one of {', '.join(TOOLS)}, or an object with write(step, scalars): got {given!r:.60}."
        )
    return given  # type: ignore[return-value]  # it has write()
