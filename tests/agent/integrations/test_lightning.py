"""The callback in the real Lightning, on a tiny model made here."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.support.lazily import Lazily

import steadynorm

if TYPE_CHECKING:
    from tests.agent.integrations import lightning_training as tiny
    from tests.support.agent import StubServer
else:
    tiny = Lazily("tests.agent.integrations.lightning_training")

Until = Callable[[Callable[[], object]], None]

pytestmark = pytest.mark.filterwarnings("ignore")  # a trainer warns of few workers, small logs and the like


def test_every_step_is_recorded_with_its_loss_and_the_run_ends(tmp_path: Path, stub: StubServer) -> None:
    trainer = tiny.make_trainer(
        tmp_path, callback := tiny.SteadyNormCallback(run="tiny", server=stub.url), max_steps=12
    )
    trainer.fit(tiny.Tiny())
    assert callback.agent is None
    assert stub.run.steps == list(range(1, 13))
    assert all(0 < loss < 3 for loss in stub.run.column("loss"))
    assert stub.run.registrations[0].parameters[0].name == "net.0.weight"
    assert stub.run.finish is not None
    assert stub.run.finish.state == "finished"


def test_norms_are_measured_before_the_trainer_clips(
    tmp_path: Path, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="steadynorm")
    tiny.seed_everything(0, verbose=False)
    bare, watched = tiny.Tiny(), tiny.Tiny()
    watched.load_state_dict(bare.state_dict())
    tiny.make_trainer(tmp_path, max_steps=10, gradient_clip_val=1e-3).fit(bare)
    callback = tiny.SteadyNormCallback(server=stub.url, mode="observe")
    tiny.make_trainer(tmp_path, callback, max_steps=10, gradient_clip_val=1e-3).fit(watched)
    assert min(stub.run.column("raw_norm")) > 0.01
    assert stub.run.steps == list(range(1, 11))
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), watched.parameters(), strict=True))
    assert "gradient_clip_val" not in caplog.text


def test_a_clip_after_the_stabilizer_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny.make_trainer(tmp_path, tiny.SteadyNormCallback(), max_steps=2, gradient_clip_val=1.0).fit(tiny.Tiny())
    assert "gradient_clip_val=1.0 clips the gradients to one total norm after they are stabilized" in caplog.text


def test_accumulated_micro_batches_are_one_step_with_an_undivided_loss(tmp_path: Path, stub: StubServer) -> None:
    callback = tiny.SteadyNormCallback(server=stub.url)
    tiny.make_trainer(tmp_path, callback, max_steps=5, accumulate_grad_batches=4).fit(tiny.Tiny())
    assert stub.run.steps == [1, 2, 3, 4, 5]
    assert all(0.5 < loss < 3 for loss in stub.run.column("loss"))


def test_a_stop_ends_the_trainer(tmp_path: Path, stub: StubServer, until: Until) -> None:
    callback = tiny.SteadyNormCallback(server=stub.url)

    def ask() -> None:
        assert callback.agent is not None
        assert callback.agent.flush(20)
        stub.change(stop=True)
        until(lambda: callback.agent and callback.agent._mailbox.seen_revision)

    trainer = tiny.make_trainer(tmp_path, callback, tiny.At(5, ask), max_steps=1000)
    trainer.fit(tiny.Tiny())
    assert trainer.global_step < 50
    assert stub.run.finish is not None
    assert stub.run.finish.state == "stopped"


def test_a_checkpoint_is_saved_when_asked_for_and_resumed_from(tmp_path: Path, stub: StubServer, until: Until) -> None:
    callback = tiny.SteadyNormCallback(server=stub.url, run="resumed")

    def ask() -> None:
        assert callback.agent is not None
        assert callback.agent.flush(20)
        stub.change(checkpoint_generation=1)
        until(lambda: callback.agent and callback.agent._mailbox.seen_revision)

    tiny.make_trainer(tmp_path, callback, tiny.At(5, ask), max_steps=20).fit(tiny.Tiny())
    (saved,) = tmp_path.rglob("steadynorm-step=*.ckpt")
    steps = int(saved.stem.partition("=")[2])
    assert 5 < steps < 20
    again = tiny.SteadyNormCallback(server=stub.url, run="resumed")
    tiny.make_trainer(tmp_path, again, max_steps=25).fit(tiny.Tiny(), ckpt_path=saved)
    assert len(stub.runs) == 1
    assert stub.run.incarnation == 2
    assert stub.run.registrations[-1].step == steps
    assert stub.run.steps[-(25 - steps) :] == list(range(steps + 1, 26))


def test_a_training_resumed_without_the_agents_state_keeps_the_trainers_numbers(
    tmp_path: Path, stub: StubServer
) -> None:
    before = tiny.make_trainer(tmp_path, max_steps=4)
    before.fit(tiny.Tiny())
    before.save_checkpoint(tmp_path / "plain.ckpt")
    callback = tiny.SteadyNormCallback(server=stub.url)
    tiny.make_trainer(tmp_path, callback, max_steps=6).fit(tiny.Tiny(), ckpt_path=tmp_path / "plain.ckpt")
    assert stub.run.steps == [5, 6]


def test_an_exception_is_the_runs_end(tmp_path: Path, stub: StubServer) -> None:
    def fail() -> None:
        raise RuntimeError("out of data")

    callback = tiny.SteadyNormCallback(server=stub.url)
    with pytest.raises(RuntimeError, match="out of data"):
        tiny.make_trainer(tmp_path, callback, tiny.At(3, fail), max_steps=9).fit(tiny.Tiny())
    assert callback.agent is None  # the program goes on
    assert stub.run.finish is not None
    assert (stub.run.finish.state, stub.run.finish.reason) == ("failed", "RuntimeError: out of data")


@pytest.mark.parametrize("framework", ["lightning", "transformers"])
def test_without_the_framework_importing_the_callback_says_what_to_install(framework: str) -> None:
    program = f"import sys; sys.modules['{framework}'] = None\nimport steadynorm.integrations.{framework}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"pip install 'steadynorm[agent,{framework}]'" in done.stderr.splitlines()[-1]


def test_one_argument_rolls_a_broken_fit_back(tmp_path: Path) -> None:
    recovery = steadynorm.Recovery(
        mode="act", every_steps=10, confirm_steps=4, detectors=["loss > 20 x median of 20 for 2 steps"]
    )
    callback, model = tiny.SteadyNormCallback(server="", mode="observe", recovery=recovery), tiny.Tiny()
    head: Any = model.net[2]
    events: list[steadynorm.RollbackEvent] = []

    class Breaks(tiny.Callback):
        def on_train_batch_end(self, trainer: tiny.Trainer, *args: Any) -> None:
            assert callback.agent is not None
            if trainer.global_step == 1:
                callback.agent.on_rollback(events.append)
            if trainer.global_step == 35:
                head.weight.data.mul_(1e4)
            callback.agent.flush()  # evaluated now

    tiny.make_trainer(tmp_path, callback, Breaks(), max_steps=45).fit(model)
    (event,) = events
    assert event.to_step == 30
    assert float(head.weight.detach().abs().max()) < 10


def test_one_argument_brings_nan_weights_back_under_the_trainers_scaler(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    precision = tiny.MixedPrecision("16-mixed", "cpu", scaler)
    recovery = steadynorm.Recovery(mode="act", every_steps=10, confirm_steps=4, detectors=[])
    callback, model = tiny.SteadyNormCallback(server="", mode="observe", recovery=recovery), tiny.Tiny()
    head: Any = model.net[2]

    class Breaks(tiny.Callback):
        def on_train_batch_end(self, trainer: tiny.Trainer, *args: Any) -> None:
            assert callback.agent is not None
            callback.agent.flush()  # evaluated now
            if trainer.global_step == 35:
                head.weight.data.fill_(torch.nan)

    tiny.make_trainer(tmp_path, callback, Breaks(), max_steps=45, plugins=[precision]).fit(model)
    assert bool(head.weight.detach().isfinite().all())
    assert not {"step", "update"} & set(vars(scaler))
