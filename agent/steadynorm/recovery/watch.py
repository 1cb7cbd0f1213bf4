"""Rank 0's detectors, fed with the steps that were recorded: by a thread of the publisher, or by one of their own.

watch.observe(record)       in whichever thread collects records
watch.observe_late(logged)  there too: scalars of a step that was observed before
watch.alarm, watch.evaluated       read in the training thread, which never waits
"""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from steadynorm.mailbox import Mailbox
from steadynorm.recording.recorder import Recorder, StepRecord
from steadynorm.recording.scalars import LoggedRecord
from steadynorm_contract.conditions import Baseline, Condition, scalar_warning, show_condition
from steadynorm_contract.detectors import Detector
from steadynorm_contract.telemetry import MAX_DETECTORS, SCALAR_COLUMNS, DetectorStatus, floats_from_bytes

PERIOD_S = 0.1  # between two looks at the recorded steps: an alarm is late by what a run steps in that time
_FIRST_STEPS = 1000
QUIET_STEPS = 5  # after which a fault is over
_HARM = 0.1  # of a fault's excess: what is less, once it has reached restored weights, is what it did to them
MAX_NUMBERS = 256
_MAX_ALARMED = 1024

_log = logging.getLogger("steadynorm")


@dataclass(frozen=True, slots=True)
class Alarm:
    """A detector's condition was met at a step."""

    step: int
    reason: str
    same: bool = False  # of the fault that the last rollback undid, which is over now
    round: int = sys.maxsize  # in which it was met


class Watch:
    """Detectors over the recorded steps.

    confirm: steps after which a snapshot is good if they raised no alarm. every_steps: between two snapshots.
    defaults: whether nobody chose the conditions. Those with a sigma then do not count where values wander, as they do
    in reinforcement learning. report: told of that once, with a name for it: in whichever thread collects records.
    """

    def __init__(
        self,
        conditions: Sequence[Condition],
        confirm: int,
        every_steps: int = 1,
        *,
        defaults: bool = False,
        report: Callable[[str, str], None] = lambda name, message: _log.warning("%s", message),
    ) -> None:
        self._defaults, self._report = defaults, report
        self._told_wandering = False
        self.numbers: dict[int, int] = {}  # under which the newest steps that may have a snapshot were recorded
        self._every = every_steps
        self.fault_until = 0  # the newest step of a fault that is only told of: what was saved until then has it
        self.alarm: Alarm | None = None  # set before `evaluated` passes its step
        self._detectors = [Detector(each) for each in conditions]
        self._conditions = list(conditions)
        reported = [show_condition(each) for each in conditions[:MAX_DETECTORS]]
        self.statuses = [DetectorStatus(each, False) for each in reported]  # replaced as a whole
        self._names: set[str] = set()  # that the loop logged so far
        self._observed = 0  # steps
        self._confirm = confirm
        # Of each detector, the steps of the newest values: a loss that is logged every 20 steps is judged as late.
        self._seen: list[deque[int]] = [deque(maxlen=min(each.span, confirm)) for each in conditions]
        self._evaluated = (0, 0)  # round and step
        self._forgotten = -1  # the last round before a checkpoint was loaded
        self._is_new = False  # whether none was observed since
        self._advised = False  # whether a fault that is only told of goes on
        self._ignored = 0
        self._settles_until = 0  # up to here what is found is of the fault that was just undone
        self._again: Alarm | None = None  # that was found since
        self._rest: Alarm | None = None  # the newest step since that met a comparison by as much as the fault
        self._largest: dict[str, float] = {}  # excess since, of each scalar
        self._quiet = 0  # steps in a row in which no detector counted
        self._newest = 0  # step
        self._alarmed: deque[int] = deque(maxlen=_MAX_ALARMED)  # the newest rounds that spiked or were not finite

    @property
    def evaluated(self) -> int:
        """Snapshots that are `confirm` steps older than this one are good."""
        at, step = self._evaluated
        return step if at > self._forgotten else 0

    @property
    def pending(self) -> Alarm | None:
        """The alarm, unless it is of a step that was given up meanwhile."""
        alarm = self.alarm
        if alarm is not None and (alarm.step <= self._ignored or alarm.round <= self._forgotten):
            alarm = self.alarm = None
        return alarm

    def forget(self, until_round: int) -> None:
        """Training thread: a checkpoint was loaded, and steps up to this round are not of the run any more."""
        self._forgotten, self._is_new, self.numbers = until_round, True, {}
        self.restart(0)

    def restart(self, step: int, *, settle: int = 0, advised: bool = False) -> None:
        """Training thread: steps up to this one belong to the past; the baselines stay.

        settle: for so many steps after it, what is found is taken for the fault that was just undone, and told once:
        when it is over, or when they are. One that is over needs no alarm of its own for that: its last steps came to
        the weights that had just been restored, and what is found after them, and is far less, is the harm that they
        did. advised: nothing was undone, and no step counts as evaluated until the fault is over; while it lasts it is
        told anew each `settle` steps.
        """
        self._advised, self.fault_until = advised, step if advised else 0
        self._ignored, self._settles_until = step, step + settle
        self._again, self._rest, self._largest, self._quiet = None, None, {}, 0
        self.alarm = None

    def observe(self, record: StepRecord) -> None:
        """One recorded step, in their order."""
        if record.round <= self._forgotten:
            return
        if self._is_new:
            self._is_new = False
            for detector, seen in zip(self._detectors, self._seen, strict=True):
                detector.reset()
                seen.clear()
        if record.own_step % self._every == 0:
            self.numbers[record.own_step] = record.step
            if len(self.numbers) > MAX_NUMBERS:
                del self.numbers[next(iter(self.numbers))]
        self._observed += 1
        if self._observed == _FIRST_STEPS:
            self._report_unlogged()
        if record.logged is not None:
            self._note_names(record.logged.values)
        if record.alarm:
            self._alarmed.append(record.round)
        step, scalars = record.own_step, floats_from_bytes(record.scalars)
        self._newest = step
        values = [_value(each, scalars, record.logged) for each in self._conditions]
        found = self._evaluate(step, record.round, values, calm=not record.alarm)
        if step <= self._ignored:
            return
        self._judge(step, found)
        # Nothing is confirmed while a fault lasts.
        if not self._advised and (self._again is None or self.alarm is not None):
            self._evaluated = (record.round, self._judged(step))

    def observe_late(self, logged: LoggedRecord) -> None:
        """Scalars of a step that was observed before, such as those that had to be reduced over ranks first."""
        if logged.round <= self._forgotten:
            return
        self._note_names(logged.values)
        values = [_value(each, (), logged) for each in self._conditions]
        calm = logged.round not in self._alarmed
        found = self._evaluate(logged.own_step, logged.round, values, calm=calm)
        if found is not None:
            self._judge(self._newest, found)

    def _evaluate(self, step: int, round_: int, values: Sequence[float], *, calm: bool) -> Alarm | None:
        """Give the detectors their values of a step, NaN where there is none. Returns what the first of them found."""
        ignored, found = step <= self._ignored, None
        restored = step <= self._settles_until and not self._advised  # the weights are those of a good snapshot
        for detector, value, seen in zip(self._detectors, values, self._seen, strict=True):
            if not math.isnan(value):
                if not seen:
                    self._note_value(detector.when)
                seen.append(step)
            if ignored:
                detector.reset()
                continue
            met = detector.observe(step, value, calm=calm, moved=restored)
            if met and found is None and self._says_something(detector, step):
                found = Alarm(step, f"{show_condition(detector.when)} ({detector.figures()})", round=round_)
            held = restored and detector.held_at == step and self._says_something(detector)
            if held and self._is_of_the_fault(detector):
                self._rest = Alarm(step, f"the rest of the same fault ({detector.figures()})", round=round_)
        return found

    def _says_something(self, detector: Detector, met: int = 0) -> bool:
        """Whether steps beyond a limit that nobody chose are evidence of a fault. met: the step that met it.

        One that may be interrupted goes by a little more than noise, so it waits until a whole window is known.
        """
        when = detector.when
        if not self._defaults or when.baseline is not Baseline.SIGMA or when.window is None:
            return True
        if when.within is not None and detector.learned < when.window:
            return False
        if not detector.wanders:
            return True
        if met and not self._told_wandering:
            self._told_wandering = True
            self._report(
                "wandering",
                f"step {met} met {show_condition(when)} ({detector.figures()}). That is no alarm here, since this "
                f"run's {when.scalar} wanders, as in reinforcement learning or where it is an average of several "
                "steps. Name detectors in Recovery(detectors=[...]) to act on it.",
            )
        return False

    def _is_of_the_fault(self, detector: Detector) -> bool:
        scalar, excess = detector.when.scalar, detector.excess
        largest = self._largest[scalar] = max(excess, self._largest.get(scalar, 0.0))
        return excess >= _HARM * largest

    def _note_value(self, when: Condition) -> None:
        """The first value of a detector."""
        shown = show_condition(when)
        self.statuses = [DetectorStatus(shown) if each.condition == shown else each for each in self.statuses]

    def _note_names(self, names: Mapping[str, float]) -> None:
        """Of logged values. Where some were not there before: is one of them what a detector was meant to look at?"""
        if self._names.issuperset(names):
            return
        before, self._names = self._names, self._names.union(names)
        for each in self._conditions:
            told, now = scalar_warning(each, before), scalar_warning(each, self._names)
            if now.endswith("?") and now != told:
                _log.warning("the detector %r may never be met: %s", show_condition(each), now)

    def _report_unlogged(self) -> None:
        for each, seen in zip(self._conditions, self._seen, strict=True):
            if not each.is_built_in and not seen:
                _log.warning(
                    "the detector %r has not had a value in %d steps: nothing was logged as %s. Check the name.",
                    *(show_condition(each), _FIRST_STEPS, ascii(each.scalar)),
                )

    def _judged(self, step: int) -> int:
        """How far all detectors that get values have got enough of them."""
        for seen in self._seen:
            if seen:
                step = min(step, seen[0] - 1 + self._confirm) if len(seen) == seen.maxlen else 0
        return step

    def _judge(self, step: int, found: Alarm | None) -> None:
        counts = found is not None or any(each.count and self._says_something(each) for each in self._detectors)
        self._quiet = 0 if counts else self._quiet + 1
        if self._advised:
            if counts:
                self.fault_until = step
            self._advised = self._quiet < QUIET_STEPS
        if self._advised or step > self._settles_until:
            if step > self._settles_until:
                self.alarm = self.alarm or found
            return
        self._again = found or self._again
        over, again = self._quiet >= QUIET_STEPS, self._again
        if self._rest is not None and step >= self._rest.step + QUIET_STEPS:
            over, again = True, self._rest
        if again is not None and (over or step == self._settles_until):
            self.alarm = self.alarm or replace(again, step=step, same=over)


def _value(condition: Condition, scalars: Sequence[float], logged: LoggedRecord | None) -> float:
    """What a condition looks at in a step; NaN where there is nothing. scalars: empty where they came before."""
    if condition.scalar in SCALAR_COLUMNS:
        return scalars[SCALAR_COLUMNS.index(condition.column)] if scalars else math.nan
    if logged is None or condition.scalar not in logged.values:
        return math.nan
    return condition.logged_value(logged.values[condition.scalar])


class RecorderWatch:
    """Collects the recorded steps for a watch, and for sinks, where nothing is sent, in a thread of its own."""

    def __init__(self, recorder: Recorder, watch: Watch | None, mailbox: Mailbox) -> None:
        self.looks_at_last = False  # when it is closed, for sinks
        self._recorder, self._watch, self._mailbox = recorder, watch, mailbox
        self._lock = threading.Lock()  # of one look at the steps; the training thread takes it in flush() only
        self._closing = threading.Event()
        self._abandoned = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look at the steps from now on. Calling it again does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="steadynorm-watch", daemon=True)
            self._thread.start()

    def look(self, *, final: bool = False) -> None:
        """Evaluate all complete steps; final: the newest one too."""
        with self._lock:
            records, _ = self._recorder.collect(final=final)
            self._mailbox.step_offset = self._recorder.step_offset
            if self._watch is not None:
                for record in records:
                    self._watch.observe(record)
                for each in self._recorder.apart:
                    self._watch.observe_late(each)

    def close(self) -> None:
        """End the thread."""
        self._closing.set()

    def abandon(self) -> None:
        """End the thread within PERIOD_S. Takes no lock: the garbage collector may call it in any thread."""
        self._abandoned = True

    def _run(self) -> None:
        failed = False
        while not (ends := self._closing.wait(PERIOD_S) or self._abandoned) or self.looks_at_last:
            try:
                self.look(final=ends)
            except Exception:
                if not failed:
                    _log.exception("the agent met an internal error while evaluating its detectors; training continues")
                failed = True
            if ends:
                return
