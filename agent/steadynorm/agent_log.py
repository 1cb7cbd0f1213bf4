"""What a training loop tells its agent: numbers of a step, what they are, and notes."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch import Tensor

from steadynorm.agent_state import AgentState
from steadynorm.distributed.reductions import Reduction, ScalarReductions, reduction
from steadynorm.mailbox import Mailbox
from steadynorm.recording.logged import validate_logged, validate_note
from steadynorm.recording.recorder import Recorder
from steadynorm.recording.scalars import ScalarNames, describe
from steadynorm_contract.telemetry import UserNote


class AgentLog(AgentState):
    """Part of the agent. Nothing here waits."""

    _mailbox: Mailbox
    _names: ScalarNames
    _recorder: Recorder | None
    _reductions: ScalarReductions | None

    def log(
        self,
        values: Mapping[str, float | Tensor | None] | None = None,
        /,
        *,
        loss: float | Tensor | None = None,
        batch_id: str | int | None = None,
        step: int | None = None,
        **scalars: float | Tensor | None,
    ) -> None:
        """Record numbers of a step: of the last completed one, or, if that has them, of the next.

        Args:
            values: The same as the keywords, for names that are none in Python.
            loss: A number, or a tensor of one element, any shape and dtype, which may stay on its device: it is copied
                there, and nothing waits. Where the loop divides the loss by its accumulation steps, log it undivided.
            batch_id: The step's data, such as `"shard3:1042"`. Sent only if the step spikes or is not finite.
            step: The loop's own number of the step, which only grows; all that people see shows it. Without it the
                first step is 1. `agent.step` and `on_checkpoint` count optimizer steps from 1 in any case.
            scalars: Numbers under names of your own, however seldom: `log(entropy=h)`, `log({"eval/loss": l})`. At most
                256 names a run. What cannot be recorded is left out with a warning. Of several ranks, rank 0's are, or
                what `describe(name, reduce=...)` asks for.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: The loss has several elements, the identifier is too long, or the step is negative.
        """
        if values:
            scalars = {**values, **scalars}
            loss = scalars.pop("loss", loss)
        said = validate_logged(loss, batch_id, step)
        try:
            reductions = self._reductions
            if scalars and self._recorder is None:
                scalars = {} if reductions is None else {k: v for k, v in scalars.items() if reductions.takes(k)}
            if scalars:
                said = said._replace(scalars=self._names.valid(scalars))
            if said.loss is not None:
                self._check.logged()
            if not self._errors.count:
                if reductions is not None:
                    said = reductions.log(said)
                if self._recorder is not None:
                    self._recorder.log(said)
            if self._recovery is not None and said.batch_id is not None:
                self._recovery.log_batch_id(said.batch_id)
        except Exception:
            self._errors.record()

    def describe(self, name: str, *, unit: str = "", sentence: str = "", reduce: Reduction | str | None = None) -> None:
        """Say what a logged scalar is: `describe("eval/loss", unit="nats", reduce="mean")`.

        Args:
            name: As in `log()`; rules may use it from now on.
            unit, sentence: For charts and tooltips; at most 40 and 300 characters.
            reduce: What is recorded where all ranks log it: `rank0`'s value, or the `mean` or `max` of those that were
                logged in the step, which arrives two to three `exchange_every` steps later. Call this on every rank.
                None: as before, and `rank0` at first.

        Raises:
            ValueError: A text is too long, or the reduction is unknown or another one than before; TypeError: a text
                is no string.
        """
        described, how = describe(unit, sentence), reduction(reduce)
        if (self._publisher is None and self._reductions is None) or not self._names.admit(name):
            return
        if self._reductions is not None and how is not None:
            self._reductions.describe(name, how)
        if self._publisher is not None:
            self._mailbox.describe(name, described)

    def note(self, text: str) -> None:
        """Write a note on the run at the present step, such as `"new data from here on"`. Sent in the background.

        Args:
            text: 1 to 2,000 characters; a server stores 500 such notes of a run.

        Raises:
            ValueError: The text is empty or too long; TypeError: it is no string.
        """
        said = UserNote(self.step, time.time(), validate_note(text))
        if not self.closed:
            self._mailbox.user_note(said)
