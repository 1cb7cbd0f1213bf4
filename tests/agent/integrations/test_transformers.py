"""The callback in Hugging Face's real Trainer, on a tiny model made here. Offline."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.support.lazily import Lazily

import steadynorm

if TYPE_CHECKING:
    from tests.agent.integrations import transformers_training as tiny
    from tests.support.agent import StubServer
else:
    tiny = Lazily("tests.agent.integrations.transformers_training")

Until = Callable[[Callable[[], object]], None]

pytestmark = pytest.mark.filterwarnings("ignore")  # a trainer warns of pinned memory and the like


def test_every_step_is_recorded_with_its_loss_and_the_run_ends(tmp_path: Path, stub: StubServer) -> None:
    callback = tiny.SteadyNormCallback(server=stub.url, run="llama")
    trainer = tiny.make_trainer(tmp_path, max_steps=12)
    assert callback.add_to(trainer) is callback
    trainer.train()
    assert callback.agent is None
    assert stub.run.steps == list(range(1, 13))
    assert all(1 < loss < 10 for loss in stub.run.column("loss"))
    assert "model.embed_tokens.weight" in [parameter.name for parameter in stub.run.registrations[0].parameters]
    assert stub.run.finish is not None
    assert stub.run.finish.state == "finished"
    assert "unscale_gradients" not in vars(trainer.accelerator)


def test_what_the_trainer_logs_beside_the_loss_is_recorded(
    tmp_path: Path, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = tiny.make_trainer(tmp_path, max_steps=4, eval_strategy="steps", eval_steps=2)
    tiny.SteadyNormCallback(server=stub.url).add_to(trainer)
    trainer.train()
    groups = [group for batch in stub.run.batches for group in batch.logged]
    assert [step for group in groups if "eval/loss" in group.names for step in group.steps] == [2, 4]
    assert {"train/grad_norm", "train/learning_rate", "eval/loss"} <= {name for group in groups for name in group.names}
    assert "built-in" not in caplog.text


def test_added_to_the_trainer_it_measures_before_the_clip(
    tmp_path: Path, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="steadynorm")
    bare, watched = tiny.make_model(), tiny.make_model()
    tiny.make_trainer(tmp_path / "bare", model=bare, max_steps=10, max_grad_norm=1e-3).train()
    trainer = tiny.make_trainer(tmp_path / "watched", model=watched, max_steps=10, max_grad_norm=1e-3)
    tiny.SteadyNormCallback(server=stub.url, mode="observe").add_to(trainer)
    trainer.train()
    assert min(stub.run.column("raw_norm")) > 0.01
    assert stub.run.steps == list(range(1, 11))
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), watched.parameters(), strict=True))
    assert "max_grad_norm" not in caplog.text


def test_passed_as_a_plain_callback_it_sees_clipped_norms_and_says_so(
    tmp_path: Path, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    callback = tiny.SteadyNormCallback(server=stub.url, mode="observe")
    tiny.make_trainer(tmp_path, callback, max_steps=5, max_grad_norm=1e-3).train()
    assert stub.run.column("raw_norm") == pytest.approx([1e-3] * 5, rel=2e-3)
    assert "max_grad_norm=0.001 clips the gradients before steadynorm sees them" in caplog.text


def test_a_clip_after_the_stabilizer_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = tiny.make_trainer(tmp_path, max_steps=2)
    tiny.SteadyNormCallback().add_to(trainer)
    trainer.train()
    assert "max_grad_norm=1.0 clips the gradients to one total norm after they are stabilized" in caplog.text


def test_accumulated_micro_batches_are_one_step(tmp_path: Path, stub: StubServer) -> None:
    trainer = tiny.make_trainer(tmp_path, max_steps=5, gradient_accumulation_steps=3)
    tiny.SteadyNormCallback(server=stub.url).add_to(trainer)
    trainer.train()
    assert stub.run.steps == [1, 2, 3, 4, 5]


def test_a_stop_ends_the_trainer(tmp_path: Path, stub: StubServer, until: Until) -> None:
    callback = tiny.SteadyNormCallback(server=stub.url)

    def ask() -> None:
        assert callback.agent is not None
        assert callback.agent.flush(20)
        stub.change(stop=True)
        until(lambda: callback.agent and callback.agent._mailbox.seen_revision)

    trainer = tiny.make_trainer(tmp_path, callback, tiny.At(5, ask), max_steps=1000)
    trainer.train()
    assert trainer.state.global_step < 50
    assert stub.run.finish is not None
    assert stub.run.finish.state == "stopped"


def test_a_checkpoint_is_saved_when_asked_for_and_resumed_from(tmp_path: Path, stub: StubServer, until: Until) -> None:
    callback = tiny.SteadyNormCallback(server=stub.url, run="resumed")

    def ask() -> None:
        assert callback.agent is not None
        assert callback.agent.flush(20)
        stub.change(checkpoint_generation=1)
        until(lambda: callback.agent and callback.agent._mailbox.seen_revision)

    tiny.make_trainer(tmp_path, callback, tiny.At(5, ask), max_steps=20).train()
    (saved,) = tmp_path.glob("checkpoint-*")
    steps = int(saved.name.partition("-")[2])
    assert 5 < steps < 20
    assert (saved / "steadynorm.pt").is_file()
    again = tiny.SteadyNormCallback(server=stub.url, run="resumed")
    tiny.make_trainer(tmp_path, again, max_steps=25).train(resume_from_checkpoint=str(saved))
    assert len(stub.runs) == 1
    assert stub.run.incarnation == 2
    assert stub.run.registrations[-1].step == steps
    assert stub.run.steps[-(25 - steps) :] == list(range(steps + 1, 26))
    (saved / "steadynorm.pt").unlink()  # as in a training that had no callback before
    callback = tiny.SteadyNormCallback(server=stub.url, run="late")
    tiny.make_trainer(tmp_path, callback, max_steps=steps + 2).train(resume_from_checkpoint=str(saved))
    assert list(stub.runs.values())[-1].steps == [steps + 1, steps + 2]


def test_a_state_file_that_was_cut_off_resumes_without_it_and_is_not_left_by_a_full_disk(
    tmp_path: Path, stub: StubServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = tiny.SteadyNormCallback(server=stub.url, run="cut")
    tiny.make_trainer(tmp_path, callback, max_steps=2, save_strategy="steps", save_steps=2).train()
    saved = tmp_path / "checkpoint-2" / "steadynorm.pt"
    saved.write_bytes(saved.read_bytes()[:100])  # by a job that was killed as it wrote
    write = torch.save

    def full(state: Any, file: Any) -> None:
        if "steadynorm" in str(file):
            Path(file).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(state, file)

    monkeypatch.setattr(torch, "save", full)
    trainer = tiny.make_trainer(
        tmp_path, tiny.SteadyNormCallback(server=stub.url), max_steps=4, save_strategy="steps", save_steps=4
    )
    trainer.train(resume_from_checkpoint=str(saved.parent))
    assert trainer.state.global_step == 4
    assert list(stub.runs.values())[-1].steps == [3, 4]
    assert "training resumes, and the statistics of norms begin anew" in caplog.text
    assert "No space left on device" in caplog.text
    assert not list((tmp_path / "checkpoint-4").glob("steadynorm*"))


def test_training_twice_makes_two_runs_and_a_failed_one_ends_as_failed(tmp_path: Path, stub: StubServer) -> None:
    def fail() -> None:
        raise RuntimeError("out of data")

    callback = tiny.SteadyNormCallback(server=stub.url)
    trainer = tiny.make_trainer(tmp_path, max_steps=6)
    callback.add_to(trainer)
    trainer.add_callback(at := tiny.At(3, fail))
    with pytest.raises(RuntimeError, match="out of data"):
        trainer.train()
    trainer.remove_callback(at)
    trainer.train()
    first, second = stub.runs.values()
    assert first.finish is not None
    assert second.finish is not None
    assert (first.finish.state, second.finish.state) == ("failed", "finished")
    assert second.steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), KeyboardInterrupt()])
def test_a_training_whose_exception_the_program_catches_is_failed(
    tmp_path: Path, stub: StubServer, error: BaseException
) -> None:
    def fail() -> None:
        raise error

    trainer = tiny.make_trainer(tmp_path, tiny.At(3, fail), max_steps=6)
    callback = tiny.SteadyNormCallback(server=stub.url).add_to(trainer)
    with suppress(RuntimeError, KeyboardInterrupt):  # as a search of hyperparameters does, or a notebook
        trainer.train()
    assert callback.agent is None
    assert "unscale_gradients" not in vars(trainer.accelerator)
    assert stub.run.finish is not None
    ended = (stub.run.finish.state, stub.run.finish.reason)
    assert ended in {("failed", "OutOfMemoryError: CUDA out of memory"), ("stopped", "interrupted from the keyboard")}
    assert (ended[0] == "stopped") == isinstance(error, KeyboardInterrupt)
    assert stub.run.steps == [1, 2, 3]


def test_what_deepspeed_shards_is_refused_whatever_wraps_it(tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, max_steps=2)
    flat = torch.optim.AdamW(trainer.model.parameters())  # what a ZeRO optimizer steps
    sharding = type("DeepSpeedZeroOptimizer", (), {"__module__": "deepspeed.runtime.zero", "optimizer": flat})()
    wrapper = type("DeepSpeedOptimizerWrapper", (), {"optimizer": sharding})()
    callback = tiny.SteadyNormCallback(server="")
    with pytest.raises(ValueError, match=r"DeepSpeedZeroOptimizer.*flat buffer"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model, optimizer=wrapper)


def test_a_deep_copy_of_the_trainer_trains_the_copy(tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, max_steps=2)
    tiny.SteadyNormCallback().add_to(trainer)
    trainer.train_dataset = None  # what makes a copy slow
    copied = copy.deepcopy(trainer)
    assert copied.train.__self__ is copied
    assert trainer.train.__self__ is trainer


def test_one_argument_rolls_a_broken_training_back(tmp_path: Path) -> None:
    recovery = steadynorm.Recovery(
        mode="act", every_steps=10, confirm_steps=4, detectors=["loss > 2 x median of 20 for 2 steps"]
    )
    callback = tiny.SteadyNormCallback(server="", mode="observe", recovery=recovery)
    model = tiny.make_model()
    events: list[steadynorm.RollbackEvent] = []

    class Breaks(tiny.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert callback.agent is not None
            if state.global_step == 1:
                callback.agent.on_rollback(events.append)
            if state.global_step == 35:
                model.lm_head.weight.data.mul_(1e3)

        def on_log(self, *args: Any, **kwargs: Any) -> None:
            if callback.agent is not None:
                callback.agent.flush()  # evaluated now

    callback.add_to(trainer := tiny.make_trainer(tmp_path, model=model, max_steps=45))
    trainer.add_callback(Breaks())
    trainer.train()
    (event,) = events
    assert event.to_step == 30
    assert float(model.lm_head.weight.detach().abs().max()) < 10
