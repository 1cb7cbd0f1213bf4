"""Runs the trials that have no row yet, two at a time, and writes each result down as it comes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

import torch
from study.run import run
from study.trial import Outcome, Trial, append, read

from steadynorm_server.runtime.process import die_with_parent

__all__ = ["file_of", "missing", "outcomes", "work"]


def file_of(folder: Path, question: str) -> Path:
    """Where a question's rows are."""
    return folder / f"{question.replace(' ', '-')}.csv"


def missing(folder: Path, trials: Iterable[Trial]) -> list[Trial]:
    """The trials without a row, each once."""
    done: dict[str, set[tuple[str, ...]]] = {}
    wanted: dict[tuple[str, ...], Trial] = {}
    for trial in trials:
        if trial.question not in done:
            done[trial.question] = {found.key for found, _ in read(file_of(folder, trial.question))}
        if trial.key not in done[trial.question]:
            wanted[trial.key] = trial
    return list(wanted.values())


def work(folder: Path, trials: list[Trial], *, workers: int, device: str = "cpu") -> None:
    """Run all of `trials`. workers: processes of one thread each; 0: this one alone. Raises what a trial raises."""
    progress = _Progress(len(trials))
    for trial, outcome in outcomes(trials, workers, device):
        append(file_of(folder, trial.question), trial, outcome)
        progress.one_more(trial)


def outcomes(trials: list[Trial], workers: int, device: str) -> Iterator[tuple[Trial, Outcome]]:
    """Run all of `trials`, in whatever order they end."""
    if workers == 0:
        torch.set_num_threads(1)
        yield from ((trial, run(trial, device)) for trial in trials)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_prepare, initargs=(os.getpid(),)) as pool:
        waiting: dict[Future[Outcome], Trial] = {}
        try:
            for trial in trials:
                waiting[pool.submit(run, trial, device)] = trial
                if len(waiting) > 2 * workers:  # few enough that Ctrl-C ends soon
                    yield from _finished(waiting)
            while waiting:
                yield from _finished(waiting)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _prepare(parent: int) -> None:
    die_with_parent(parent)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who writes the rows down


def _finished(waiting: dict[Future[Outcome], Trial]) -> Iterator[tuple[Trial, Outcome]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        yield waiting.pop(future), future.result()


class _Progress:
    """One line on stderr: how far, and how long still. Rewritten in a terminal, now and then a new one in a log."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._began = self._told = time.monotonic()

    def one_more(self, trial: Trial) -> None:
        self._done += 1
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if self._done < self._total and now - self._told < (0.2 if terminal else 30.0):
            return
        self._told = now
        left = (now - self._began) / self._done * (self._total - self._done)
        line = (
            f"{self._done}/{self._total} trials, {_minutes(left)} left: {trial.question}, {trial.task}, {trial.method}"
        )
        print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
        if terminal and self._done == self._total:
            print(file=sys.stderr)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
