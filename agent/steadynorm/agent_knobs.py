"""What a training loop lets operators turn: numbers of its own, and options of its optimizers."""

from __future__ import annotations

from torch.optim import Optimizer

from steadynorm.agent_state import AgentState
from steadynorm.hooks import OptimizerHooks
from steadynorm.knobs import RANGES, LiveKnob, OptimizerOption, declare


class AgentKnobs(AgentState):
    """Part of the agent. Knobs are declared before the first step, and on every rank alike."""

    _hooks: list[OptimizerHooks]

    def knob(
        self,
        name: str,
        default: float,
        *,
        low: float,
        high: float,
        integer: bool = False,
        unit: str = "",
        sentence: str = "",
    ) -> LiveKnob:
        """Declare a number that operators may change while the run trains: the setting `knob.NAME`.

        Args:
            name: 1 to 64 of A-Z a-z 0-9 _ . / -, the first of them a letter or _. At most 64 knobs a run.
            default: The value to begin with; a checkpoint's takes its place.
            low: The least value that is allowed.
            high: The greatest value that is allowed.
            integer: Whether only whole numbers are.
            unit: For people, such as `"tokens"`.
            sentence: What it does, for people.

        Returns:
            Its `value` is the one in force, changed between two steps: read it where it is used. Without a server, or
            with one that is older than knobs, it stays as it is.

        Raises:
            ValueError: A name or a range is wrong, or the name is taken; TypeError: a value is no number.
            RuntimeError: The first step has begun.
        """
        return self._boundary.declare(declare(name, default, low, high, integer=integer, unit=unit, sentence=sentence))

    def optimizer_knobs(
        self, optimizer: Optimizer, *options: str, prefix: str = "", **ranges: tuple[float, float]
    ) -> dict[str, LiveKnob]:
        """Declare options of an optimizer's parameter groups as knobs: `optimizer_knobs(optimizer, "weight_decay")`.

        While a knob has a value, that value is in the groups while `step()` runs, and at no other time: schedulers,
        checkpoints and the loop see the program's own. It is in those groups whose own value is that of the first group
        with any but zero, so that tensors which the program excepts from weight decay stay excepted. `betas` has two
        knobs, beta1 and beta2.

        Args:
            optimizer: One of the agent's.
            options: Names of options that have a range in `knobs.RANGES`, such as weight_decay, betas and momentum.
            prefix: Of the knobs' names, where several optimizers have the same option: `"muon."`.
            ranges: Options with the least and the greatest value: `weight_decay=(0, 0.3)`.

        Returns:
            The knobs by name. Their `value` is None at first: the option is as the program has it.

        Raises:
            ValueError: The optimizer is not the agent's, has no such option, or the range is missing or wrong.
            RuntimeError: The first step has begun.
        """
        hooks = next((each for each in self._hooks if each.is_of(optimizer)), None)
        if hooks is None:
            raise ValueError(
                f"optimizer must be one that this agent is attached to: got another {type(optimizer).__name__}."
            )
        lives: dict[str, LiveKnob] = {}
        for option, given in {**dict.fromkeys(options), **ranges}.items():
            if option == "lr":
                raise ValueError("lr is a setting of every run: `steadynorm set RUN lr=0.001`. It needs no knob.")
            if (found := given or RANGES.get(option)) is None:
                raise ValueError(f"{option} must be given with its range: optimizer_knobs(optimizer, {option}=(0, 1)).")
            chosen = OptimizerOption(optimizer, option)
            knobs = [
                declare(
                    prefix + name, default, *found, integer=False, unit="", own=True,
                    sentence=f"{option} of {type(optimizer).__name__} during a step; off: the program's own.",
                )
                for name, default in zip(chosen.names, chosen.defaults, strict=True)
            ]  # fmt: skip
            chosen.lives = [self._boundary.declare(knob) for knob in knobs]
            hooks.options.append(chosen)
            lives |= {live.name: live for live in chosen.lives}
        return lives
