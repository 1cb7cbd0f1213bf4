"""What the agent finds out about the training loop around it, in one line and in warnings.

A loop can be such that nothing is stabilized and nothing raises: it steps another optimizer, or its gradients are not
in `.grad`. Each of these is one warning with what to do, and an event of the run.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from steadynorm.arguments import Arguments
from steadynorm.learning_rates import steps_by_rate
from steadynorm.mailbox import Mailbox
from steadynorm.sinks.thread import SinkState
from steadynorm.stabilizer.sharding import local_part
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.step_boundary import StepBoundary
from steadynorm_contract.settings import Mode
from steadynorm_contract.telemetry import AgentNote, NoteKind
from steadynorm_contract.words import counted

STEPS = 2  # after which the line is told
MAX_STEPS_WITHOUT_GRADIENT = 100
MAX_LOGS_WITHOUT_STEP = 20  # before the first one
MAX_LOGS_BETWEEN_STEPS = 200  # a loop may log each part of an accumulated one
_SAMPLE = 8  # parameters

_log = logging.getLogger("steadynorm")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the training loop that is probably not meant. name: stable, such as `no_gradient`."""

    name: str
    step: int
    message: str


@dataclass(frozen=True, slots=True)
class AgentHealth:
    """What `Agent.health()` returns. It is true where nothing was found."""

    summary: str
    findings: tuple[Finding, ...] = ()
    sinks: tuple[SinkState, ...] = ()

    def __bool__(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        found = (f"- {finding.message}" for finding in self.findings)
        return "\n".join([self.summary, *found, *(f"- sink {sink}" for sink in self.sinks)])


class SelfCheck:
    """The check of one agent. Lives in the training thread. Costs a comparison a step once it is complete.

    place: this rank, and how many there are. other_ranks: those that hold other parameters than rank 0.
    """

    def __init__(
        self,
        given: Arguments,
        stabilizers: Sequence[GradientStabilizer],
        boundary: StepBoundary,
        mailbox: Mailbox,
        place: tuple[int, int] = (0, 1),
        other_ranks: Sequence[int] = (),
    ) -> None:
        self.findings: dict[str, Finding] = {}
        self.without_optimizers = False  # whether the program has dropped them all
        self._optimizers = [weakref.ref(optimizer) for optimizer in given.optimizers]
        self._stabilizers = stabilizers
        self._boundary = boundary
        self._mailbox = mailbox
        self._rank, self._size = place
        self._steps = [0] * len(given.optimizers)
        self._nested = False  # whether a step was seen within a step
        self._has_gradient = False  # whether any was seen
        self._is_told = False  # whether the line was
        self._observes_first = False  # whether the line said so
        self.complete = False  # whether steps need not be looked at any more
        self._logs = 0  # since the newest step
        self._logged_round = 0  # the round of that step
        self._weights: list[Tensor] = []  # at one of them
        self._check_parameters(given.model)
        self._check_rates(given.optimizers)
        if other_ranks and self._rank == 0:
            self._report_other_ranks(other_ranks)

    @property
    def health(self) -> AgentHealth:
        """As of now. Waits for nothing."""
        return AgentHealth(self.summary, tuple(self.findings.values()))

    @property
    def summary(self) -> str:
        """One line."""
        covered = sum(len(stabilizer.names) for stabilizer in self._stabilizers)
        trainable = len(self._trainable())
        parts = [f"{covered} of {trainable} tensors" if trainable else "no tensors to train"]
        parts.append("steps seen" if any(self._steps) else "no step yet")
        if any(self._steps):
            parts.append("hooks once" if not self._nested else "hooks nested in a subclass and counted once")
            parts.append("gradients seen" if self._has_gradient else "no gradient yet")
            if not all(self._steps):
                parts.append(f"{self._steps.count(0)} of {len(self._steps)} optimizers without a step")
        parts.append(self._mode())
        if self._size > 1:
            parts.append(f"rank {self._rank} of {self._size}")
        parts += [f"found: {name}" for name in self.findings]
        return ", ".join(parts)

    def report(self, name: str, message: str, *, kind: NoteKind | None = NoteKind.FINDING) -> None:
        """Warn, once for each name. kind: of the event; None: it has one already, and its line in the log."""
        if name in self.findings:
            return
        step = self._boundary.step
        self.findings[name] = Finding(name, step, message)
        if kind is not None:
            _log.warning("%s", message)
            self._mailbox.note(AgentNote(kind, step, time.time(), self._rank, message))

    def nested_step(self) -> None:
        """An optimizer's step began within its own."""
        self._nested = True

    def saw_step(self, index: int) -> None:
        """Optimizer `index` is stepping, and its gradients are complete."""
        if self.complete:
            return
        self._steps[index] += 1
        step = self._boundary.step
        if not self._has_gradient:
            self._has_gradient = any(
                parameter.grad is not None for stabilizer in self._stabilizers for parameter in stabilizer.parameters
            )
            if not self._has_gradient and step >= MAX_STEPS_WITHOUT_GRADIENT:
                self.report(
                    "no_gradient",
                    f"{step} steps without any gradient: the loop keeps them elsewhere than in .grad, so nothing is "
                    "measured or stabilized. DeepSpeed, Megatron and optimizers that step within backward do so. "
                    "Attach to the optimizer that gets them in .grad, or use GradientStabilizer where they are.",
                )
        if not all(self._steps) and step >= MAX_STEPS_WITHOUT_GRADIENT:
            self._report_idle(step)
        if (step >= STEPS and not self._is_told) or (self._observes_first and not self._is_observed()):
            self._tell(step)
        has_all = all(self._steps) or "idle_optimizer" in self.findings
        has_gradient = self._has_gradient or "no_gradient" in self.findings
        self.complete = self._is_told and has_all and has_gradient and not self._observes_first

    def _check_gradients(self) -> None:
        """Whether each parameter has a gradient of its own."""
        parameters = [parameter for stabilizer in self._stabilizers for parameter in stabilizer.parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if shared := len(gradients) - len({id(gradient) for gradient in gradients}):
            self.report(
                "shared_gradients",
                f"{counted(shared, 'parameter has', 'parameters have')} the very tensor that is another one's "
                ".grad: it is scaled once for each of them. Give each parameter a gradient of its own: "
                "p.grad = q.grad.clone().",
            )

    def _tell(self, step: int) -> None:
        """The line: at the first steps, and again when an optimizer that was observed first is stabilized."""
        if not self._is_told:
            self._check_ranks()
            self._check_gradients()
        self._is_told = True
        self._observes_first = self._boundary.settings.mode is Mode.STABILIZE and self._is_observed()
        _log.info("%s", self.summary)
        self._mailbox.note(AgentNote(NoteKind.SELF_CHECK, step, time.time(), self._rank, self.summary))

    def _is_observed(self) -> bool:
        return self._stabilizers[0].settings.mode is Mode.OBSERVE

    def _report_idle(self, step: int) -> None:
        idle = [
            f"{at} ({type(optimizer).__name__})"
            for at, (count, reference) in enumerate(zip(self._steps, self._optimizers, strict=True))
            if not count and (optimizer := reference()) is not None
        ]
        self.report(
            "idle_optimizer",
            f"{step} steps, and none of optimizer {', '.join(idle)} of {len(self._steps)}: the loop steps another one "
            "in its place, or none. Its tensors are not stabilized. Give attach() the optimizers whose step() the loop "
            "calls.",
        )

    def logged(self) -> None:
        """A loss was logged."""
        if self.without_optimizers:
            self.report(
                "no_optimizer",
                "the optimizer that this agent was attached to was freed, so its run has ended: the loop steps another "
                "one, or its variables were made again. Nothing is measured or stabilized. Attach to the optimizer "
                "that steps now.",
            )
            return
        if self._boundary.closed:
            return
        if self._logged_round != self._boundary.round:
            self._logged_round, self._logs, self._weights = self._boundary.round, 0, []
        self._logs += 1
        begun = bool(self._logged_round)
        name, most = ("steps_ended", MAX_LOGS_BETWEEN_STEPS) if begun else ("no_step", MAX_LOGS_WITHOUT_STEP)
        if self._logs == (most if begun else 1):
            self._weights = [each.clone() for each in self._sample()]
        # Not while a loop accumulates gradients, and logs each part: then nothing moves the weights.
        elif self._logs % most == 0 and name not in self.findings and self._has_moved():
            since = f" since step {self._boundary.step}" if begun else ""
            self._report_no_step(name, f"{self._logs} losses, no step of {self._kinds()}{since}")

    def closed(self) -> None:
        """The agent is closed by a loop that did not fail."""
        if not self._boundary.step and not any(self._steps):
            self._report_no_step("no_step", f"closed without a step of {self._kinds()}")
        self._weights = []

    def _report_no_step(self, name: str, what: str) -> None:
        self.report(
            name,
            f"{what}: the loop calls another step() than its, or none. Nothing is measured or stabilized. Attach the "
            "optimizer whose step() the loop calls, such as the one inside of a wrapper.",
        )

    def _check_parameters(self, model: torch.nn.Module) -> None:
        known, trainable = {id(parameter) for parameter in model.parameters()}, self._trainable()
        unknown = sum(id(parameter) not in known for parameter in trainable)
        if not unknown:
            return
        which, what = (
            f"{unknown} of the {len(trainable)} parameters of {self._kinds()} {'is' if unknown == 1 else 'are'} not",
            "which other parts hold",
        )
        if unknown == len(trainable):
            which = f"none of the parameters of {self._kinds()} is"
            what = "got another model's optimizer, or a copy of the weights"
        self.report(
            "parameters",
            f"{which} in the model: {what}. They are stabilized under names such as optimizer0.group0.param0. Pass a "
            "model that holds them, such as a torch.nn.ModuleDict of all parts.",
        )

    def _check_rates(self, optimizers: Sequence[Optimizer]) -> None:
        steps = [steps_by_rate(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups]
        if not all(steps):
            self.report(
                "no_rate",
                f"{steps.count(False)} of {len(steps)} parameter groups of {self._kinds()} have no learning rate that "
                "they step by, `lr`: lr_scale does not change their steps. Do not count on it to slow this run down.",
            )

    def _check_ranks(self) -> None:
        """Ranks that were not there at attach()."""
        ranks = torch.distributed.get_world_size() if _is_distributed() else 1
        if self._size == 1 and ranks > 1:
            self.report(
                "attached_too_early",
                f"attach() was called before torch.distributed was initialized, and there are {ranks} ranks now: each "
                "has an agent and a run of its own, and a change of one run makes the ranks' weights differ. Call "
                "attach() after init_process_group(), on every rank.",
            )

    def _report_other_ranks(self, ranks: Sequence[int]) -> None:
        listed = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
        self.report(
            "other_parameters",
            f"rank {listed} of {self._size} holds other parameters than rank 0, as stages of a pipeline do. Each rank "
            "stabilizes its own, and all take the same settings; but norms, loss and batches that are recorded and "
            "shown are rank 0's only, so a spike on another rank is not seen.",
        )

    def _trainable(self) -> list[Tensor]:
        """All that the optimizers train, each once."""
        attached = [optimizer for reference in self._optimizers if (optimizer := reference()) is not None]
        parameters = (p for optimizer in attached for group in optimizer.param_groups for p in group["params"])
        return list({id(parameter): parameter for parameter in parameters if parameter.requires_grad}.values())

    @torch.no_grad()
    def _sample(self) -> list[Tensor]:
        """The smallest parameters, which cost little to compare; of shards this rank's, which waits for no other."""
        return [local_part(each) for each in sorted(self._trainable(), key=Tensor.numel)[:_SAMPLE]]

    def _has_moved(self) -> bool:
        """Whether the weights have changed since they were kept. Waits for the device, where no step comes."""
        return any(not torch.equal(before, now) for before, now in zip(self._weights, self._sample(), strict=False))

    def _kinds(self) -> str:
        attached = [optimizer for reference in self._optimizers if (optimizer := reference()) is not None]
        return ", ".join(type(optimizer).__name__ for optimizer in attached)

    def _mode(self) -> str:
        boundary = self._boundary
        mode = boundary.settings.mode
        if mode is Mode.STABILIZE and boundary.observe_left:
            return f"observing {counted(boundary.observe_left, 'step')} first because the optimizer has state"
        words = {Mode.OBSERVE: "observing", Mode.CLIP: "clipping", Mode.STABILIZE: "stabilizing"}
        return words.get(mode, mode.value)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
