"""`steadynorm demo`: a real training run, measured, stabilized and changed live, in one command."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from steadynorm_cli.commands.options import number
from steadynorm_cli.demo_run import GAMMA2, Result, Training, example
from steadynorm_cli.local_stack import LocalStack, Stopped, launcher, stop_signals
from steadynorm_contract.discovery import data_dir
from steadynorm_contract.runs import RunDetail

__all__ = ["demo"]

INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended


def demo(
    steps: Annotated[int, typer.Option(min=50, help="Optimizer steps to train.")] = 2000,
    once: Annotated[
        bool, typer.Option("--once", help="End after the run; its result is the last line, as JSON.")
    ] = False,
) -> None:
    """Start everything, train a small GPT, and change its settings halfway. Needs nothing but this machine."""
    example()  # before anything is started
    result: Result | None = None
    try:
        with stop_signals(), LocalStack(data_dir(), adopt=True, tell=typer.echo) as house:
            result = _train(house, steps)
            if not once:
                _stay(house)
    except Stopped:
        if result is None:
            typer.echo("stopped before the run was over")
            raise typer.Exit(INTERRUPTED) from None
        typer.echo("ended")
    if once and result is not None:
        typer.echo(msgspec.json.encode(result))


def _train(house: LocalStack, steps: int) -> Result:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"server     {house.server}" + ("  (was running already)" if house.adopted else ""))
    console.print(f"dashboard  {house.dashboard}")
    console.print("a character GPT begins to train in a process of its own …")
    with Training(house, steps) as training, _Display(console, steps) as display:
        told_run = told_change = False
        for run in training.watch():
            if not told_run:
                display.say(f"watch it   {launcher().link(house.dashboard, run.run_id)}")
                told_run = True
            display.show(run)
            change = training.change
            if change is not None and change.step is not None and not told_change:
                display.say(f"gamma2 {change.before:g} → {GAMMA2:g}: applied at step {change.step}")
                told_change = True
    result = training.result()
    console.print(f"{result.steps} steps recorded: loss {result.first_loss:.3f} → {result.last_loss:.3f}")
    return result


def _stay(house: LocalStack) -> None:
    if house.adopted:
        typer.echo("The run is over. Your server keeps running.")
    else:
        typer.echo("The run is over; the dashboard stays up for you to look around. Ctrl-C ends everything.")
        house.wait()


class _Display:
    """A progress bar on a terminal; elsewhere a plain line every tenth of the way."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps
        self._next = 1  # the step of the next plain line
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  norm {task.fields[norm]}  target {task.fields[target]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=steps, loss="-", norm="-", target="-")

    def __enter__(self) -> _Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        self._console.print(text)

    def show(self, run: RunDetail) -> None:
        """Where the run is now."""
        loss, norm, target = number(run.loss), number(run.raw_norm), number(run.target_min)
        self._bar.update(self._task, completed=run.step, loss=loss, norm=norm, target=target)
        if not self._console.is_terminal and run.step >= self._next:
            self._console.print(f"step {run.step}/{self._steps}  loss {loss}  norm {norm}  smallest target {target}")
            soon = run.step + max(1, self._steps // 10)
            self._next = soon if run.step == self._steps else min(soon, self._steps)
