"""The default detectors on series of a loss: reinforcement learning raises no alarm, a model that has collapsed does.

cartpole_loss.txt: a clean run of CartPole by PPO, as benchmarks/recovery_calm.py trains it at 3e-3 with seed 9; the 16
losses of each rollout on a line.
"""

from __future__ import annotations

import logging
import math
import random
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import steadynorm
from steadynorm.recording.recorder import StepRecord
from steadynorm.recovery.watch import Alarm, Watch
from steadynorm.recovery_options import Recovery
from steadynorm_contract.telemetry import SCALAR_COLUMNS, NoteKind, floats_to_bytes

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training

CARTPOLE = [float(each) for each in (Path(__file__).parent / "cartpole_loss.txt").read_text("ascii").split()]


def alarms(losses: list[float], *, defaults: bool = True, settle: int = 0) -> list[Alarm]:
    """What is found. settle: a rollback after each, and for so many steps what is found is of the same fault."""
    recovery, found = Recovery(), []
    watch = Watch(recovery.conditions(), recovery.confirm, recovery.every_steps, defaults=defaults)
    for step, loss in enumerate(losses, 1):
        scalars = [0.0] * len(SCALAR_COLUMNS)
        for name, value in (("loss", loss), ("loss_nonfinite", float(math.isnan(loss))), ("raw_norm", 1.0)):
            scalars[SCALAR_COLUMNS.index(name)] = value
        watch.observe(StepRecord(step, 0.0, floats_to_bytes(scalars), b"", False, own_step=step, round=step))
        if watch.pending is not None:
            found.append(watch.pending)
            watch.restart(step, settle=settle)
    return found


def falling(steps: int) -> list[float]:
    """A classifier's loss: it falls from 2.3 to 1.6, with the noise of its batches."""
    random.seed(0)
    return [1.6 + 0.7 * math.exp(-step / 80) + random.gauss(0.0, 0.15) for step in range(steps)]


def test_a_clean_run_of_reinforcement_learning_raises_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "steadynorm"):
        assert not alarms(CARTPOLE)
    (told,) = caplog.messages
    assert "step 324 met loss > mean + 3 sigma of 200, 20 times in 30 steps" in told
    assert "Name detectors" in told


def test_a_loss_that_is_left_alone_is_a_finding_of_the_agent_and_an_event_of_the_run(
    training: Training, stub: StubServer
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, recovery=steadynorm.Recovery())
    for loss in CARTPOLE[:330]:
        training.step()
        agent.log(loss=loss)
    assert agent.flush(60)
    assert [(each.name, each.message.partition(" (")[0]) for each in agent.health().findings] == [
        ("wandering", "step 324 met loss > mean + 3 sigma of 200, 20 times in 30 steps")
    ]
    agent.close()
    found = [note.message for batch in stub.run.batches for note in batch.notes if note.kind is NoteKind.FINDING]
    assert found == [each.message for each in agent.health().findings]


def test_detectors_that_somebody_named_mean_what_they_say() -> None:
    assert [each.step for each in alarms(CARTPOLE, defaults=False)][:1] == [324]


def test_a_model_that_has_collapsed_is_found_where_the_loss_was_falling() -> None:
    random.seed(1)
    collapsed = [2.3 + random.gauss(0.0, 0.15) for _ in range(40)]
    (found,) = alarms(falling(300) + collapsed)
    assert 320 <= found.step <= 330
    assert found.reason.startswith("loss > mean + 3 sigma of 200, 20 times in 30 steps")


def test_a_loss_that_leaves_its_range_is_found_while_the_window_is_half_full() -> None:
    assert [each.step for each in alarms(falling(130) + [40.0] * 5)] == [135]


def test_a_loss_that_rises_before_its_window_is_full_is_learned_from_the_start() -> None:
    """Pendulum's, whose values are learned within 80 steps, and then are those of a better policy."""
    random.seed(2)
    course = [(0, 1.5), (20, 0.4), (50, 0.1), (88, 0.08), (100, 0.6), (120, 1.6), (180, 1.3), (250, 0.4), (400, 0.1)]
    losses = []
    for (first, start), (last, end) in pairwise(course):
        losses += [start + (end - start) * at / (last - first) + random.gauss(0, 0.05) for at in range(last - first)]
    assert alarms(losses, defaults=False)
    assert not alarms(losses)


def test_after_a_rollback_a_loss_that_wanders_is_not_the_rest_of_the_fault() -> None:
    losses = [*CARTPOLE[:300], math.nan, math.nan, *CARTPOLE[300:]]
    (found,) = alarms(losses, settle=100)
    assert (found.step, found.same) == (302, False)
    assert len(alarms(losses, settle=100, defaults=False)) > 1
