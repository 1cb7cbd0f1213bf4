"""Where else a run's numbers go: the tools that people keep, and sinks of their own. Nothing here needs torch.

    attach(model, optimizer, sinks=["wandb", "tensorboard"])
    attach(model, optimizer, sinks=[TensorBoard("logs/gpt"), MySink()])     # anything with write(step, scalars)

A sink runs in a thread of its own, and a training step never waits for it. One that hangs or raises loses rows, which
are counted, and is told once.
"""

from steadynorm.sinks.base import RunInfo, Sink, SinkEvent
from steadynorm.sinks.mlflow import MLflow
from steadynorm.sinks.tensorboard import TensorBoard
from steadynorm.sinks.trackio import Trackio
from steadynorm.sinks.wandb import Wandb

__all__ = ["MLflow", "RunInfo", "Sink", "SinkEvent", "TensorBoard", "Trackio", "Wandb"]
