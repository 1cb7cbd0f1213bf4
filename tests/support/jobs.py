"""Small real trainings under the agent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import pytest
from tests.support.local_server import RunningStack


class Job:
    """A small real training: a thread that steps a tiny model under the agent until it is told to stop."""

    def __init__(self, stack: RunningStack, name: str, **options: Any) -> None:
        import torch

        import steadynorm

        torch.manual_seed(0)
        self._model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-3)
        self.agent = steadynorm.attach(
            self._model, self._optimizer, run=name, server=stack.server, token=stack.token, **options
        )
        if self.agent._publisher is not None:
            self.agent._publisher.period_s = 0.05  # what alarms is sent as soon, and not within a second
        self.spike = threading.Event()
        """Set: the next step's gradients are a million times larger."""
        self.poison = threading.Event()
        """Set: the next step's gradients are NaN."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._train, name=f"job {name}")
        self._thread.start()

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.agent.run_id

    def end(self) -> None:
        """Stop training and finish the run."""
        self._ending.set()
        self._thread.join()
        self.agent.flush(20.0)  # close() waits for 1.5 s, which this machine may stand still for
        self.agent.close()

    def _train(self) -> None:
        import torch

        while not self._ending.wait(0.01):  # about a hundred steps a second: a pace, not a wait for something
            loss = self._model(torch.randn(32, 8)).square().mean()
            self._optimizer.zero_grad()
            loss.backward()
            for event, factor in ((self.spike, 1e6), (self.poison, float("nan"))):
                if event.is_set():
                    event.clear()
                    for parameter in self._model.parameters():
                        assert parameter.grad is not None
                        parameter.grad.mul_(factor)
            self._optimizer.step()
            self.agent.log(loss=loss)


class RunJob(Protocol):
    """Type of the fixture `run_job`."""

    def __call__(self, stack: RunningStack, name: str, **options: Any) -> AbstractContextManager[Job]: ...


class StartJob(Protocol):
    """Type of the fixture `start_job`."""

    def __call__(self, stack: RunningStack, name: str, **options: Any) -> Job: ...


@pytest.fixture(scope="session")
def run_job() -> RunJob:
    """run_job(stack, "name", **options of attach): a Job for as long as the block runs."""

    @contextmanager
    def run(stack: RunningStack, name: str, **options: Any) -> Iterator[Job]:
        job = Job(stack, name, **options)
        try:
            yield job
        finally:
            job.end()

    return run


@pytest.fixture
def start_job(run_job: RunJob) -> Iterator[StartJob]:
    """start_job(stack, "name", **options of attach) -> a Job, ended with the test."""
    with ExitStack() as jobs:
        yield lambda stack, name, **options: jobs.enter_context(run_job(stack, name, **options))
