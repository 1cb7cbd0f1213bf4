"""`steadynorm demo`: a real training run, measured, stabilized and changed live, in one command."""

from typing import Annotated, Self

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from steadynorm_cli.commands.output import number
from steadynorm_cli.demo_run import GAMMA2, PoisonedResult, PoisonedTraining, Result, Training, example
from steadynorm_cli.errors import CommandError
from steadynorm_cli.local_stack import LINK_HINT, LocalStack
from steadynorm_cli.stop_signals import Stopped, stop_signals
from steadynorm_contract.discovery import data_dir
from steadynorm_contract.runs import RunDetail

INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended
LEAST_SPIKE_STEPS = 300  # half of them before the garbage, enough for a baseline and a confirmed snapshot


class SpikeResult(msgspec.Struct, kw_only=True):
    """The line that `--once --spike` prints: the same garbage batches without and with recovery."""

    untouched: PoisonedResult
    recovered: PoisonedResult
    server: str
    dashboard: str


def demo(
    steps: Annotated[
        int | None,
        typer.Option(
            min=50, help="Optimizer steps to train.", show_default="2000; with --spike 500, and 300 at the least"
        ),
    ] = None,
    spike: Annotated[
        bool,
        typer.Option("--spike", help="Train a run through garbage batches instead: untouched, then rolled back."),
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Stop after the run; the last line is its result as JSON.")
    ] = False,
) -> None:
    """Start everything, train a small GPT, and change its settings halfway. Needs no network."""
    example()  # before anything is started
    if spike and steps is not None and steps < LEAST_SPIKE_STEPS:
        raise CommandError(
            f"with --spike, --steps must be at least {LEAST_SPIKE_STEPS}, so that there is a snapshot to go back to: "
            f"got {steps}."
        )
    result: Result | SpikeResult | None = None
    try:
        with stop_signals(), LocalStack(data_dir(), reuse_running=True, on_message=typer.echo) as stack:
            result = _spike(stack, steps or 500) if spike else _train(stack, steps or 2000)
            if not once:
                _stay(stack)
    except Stopped:
        if result is None:
            typer.echo("stopped before the run ended")
            raise typer.Exit(INTERRUPTED) from None
        typer.echo("stopped")
    if once and result is not None:
        typer.echo(msgspec.json.encode(result))


def _train(stack: LocalStack, steps: int) -> Result:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"server     {stack.server}" + ("  (already running)" if stack.reused else ""))
    console.print(f"dashboard  {stack.dashboard}")
    console.print("training a character GPT in a process of its own …")
    with Training(stack, steps) as training, _Display(console, steps) as display:
        link_shown = change_shown = False
        for run in training.watch():
            if not link_shown:
                display.print(f"watch it   {stack.link(run.run_id)}\n           {LINK_HINT}")
                link_shown = True
            display.show(run)
            change = training.change
            if change is not None and change.step is not None and not change_shown:
                display.print(f"gamma2 {change.before:g} → {GAMMA2:g}: applied at step {change.step}")
                change_shown = True
    result = training.result()
    console.print(f"{result.steps} steps recorded: loss {result.first_loss:.3f} → {result.last_loss:.3f}")
    return result


def _spike(stack: LocalStack, steps: int) -> SpikeResult:
    """The second act: the same garbage batches without and with recovery."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"server     {stack.server}" + ("  (already running)" if stack.reused else ""))
    console.print(f"dashboard  {stack.dashboard}")
    results = []
    for recovers in (False, True):
        console.print(
            f"ten garbage batches at step {steps // 2}, {'rolled back by the agent' if recovers else 'untouched'}"
        )
        with PoisonedTraining(stack, steps, recovers=recovers) as training, _Display(console, steps) as display:
            told = -1
            for run in training.watch():
                if told < 0:
                    display.print(f"watch it   {stack.link(run.run_id)}\n           {LINK_HINT}")
                    told = 0
                display.show(run)
                if run.rollbacks > told:
                    for each in training.rollbacks()[told:]:
                        display.print(each.message)
                        told += 1
        results.append(training.result())
    untouched, recovered = results
    console.print(f"loss at the end: {untouched.last_loss:.3f} untouched, {recovered.last_loss:.3f} rolled back")
    return SpikeResult(untouched=untouched, recovered=recovered, server=stack.server, dashboard=stack.dashboard)


def _stay(stack: LocalStack) -> None:
    if stack.reused:
        typer.echo("The run has ended. Your server keeps running.")
    else:
        typer.echo("The run has ended; the dashboard keeps running. Ctrl-C stops everything.")
        stack.wait()


class _Display:
    """A progress bar on a terminal; elsewhere a line every tenth of the steps."""

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

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def print(self, text: str) -> None:
        """Print a permanent line above the bar."""
        self._console.print(text)

    def show(self, run: RunDetail) -> None:
        """Show the run's present step and numbers."""
        loss, norm, target = number(run.loss), number(run.raw_norm), number(run.target_min)
        self._bar.update(self._task, completed=run.step, loss=loss, norm=norm, target=target)
        if not self._console.is_terminal and run.step >= self._next:
            self._console.print(f"step {run.step}/{self._steps}  loss {loss}  norm {norm}  smallest target {target}")
            soon = run.step + max(1, self._steps // 10)
            self._next = soon if run.step == self._steps else min(soon, self._steps)
