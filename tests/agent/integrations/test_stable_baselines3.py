"""The callback in stable-baselines3's real algorithms, on gymnasium's small environments."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what their own imports deprecate is not ours
    from stable_baselines3 import DQN, PPO, SAC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import configure

    from steadynorm.integrations.stable_baselines3 import SteadyNormCallback

if TYPE_CHECKING:
    from tests.support.agent import StubServer

Until = Callable[[Callable[[], object]], None]

pytestmark = pytest.mark.filterwarnings("ignore")  # gymnasium's

NO_CLIP = float("inf")


def make_ppo(max_grad_norm: float = NO_CLIP) -> PPO:
    """Four steps of the optimizer after each 32 moves."""
    return PPO(
        "MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=4, seed=0, device="cpu",
        max_grad_norm=max_grad_norm, policy_kwargs={"net_arch": [8]},
    )  # fmt: skip


class At(BaseCallback):
    """Does something after a move."""

    def __init__(self, move: int, action: Callable[[], None]) -> None:
        super().__init__()
        self.move, self.action = move, action

    def _on_step(self) -> bool:
        if self.num_timesteps == self.move:
            self.action()
        return True


def test_steps_and_what_the_algorithm_logs_are_recorded_and_the_run_ends(
    stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    callback = SteadyNormCallback(server=stub.url, run="cartpole")
    ppo = make_ppo().learn(96, callback=callback)
    assert callback.agent is None
    assert stub.run.steps == list(range(1, 13))
    assert stub.run.registrations[0].parameters[0].name == "mlp_extractor.policy_net.0.weight"
    losses = {step: loss for step, loss in zip(stub.run.steps, stub.run.column("loss"), strict=True) if loss == loss}
    assert losses.keys() == {4, 8}, "of the last step before the algorithm logs"
    names = {name for batch in stub.run.batches for group in batch.logged for name in group.names}
    assert {"rollout/ep_rew_mean", "train/entropy_loss"} <= names
    assert stub.run.finish is not None
    assert stub.run.finish.state == "finished"
    assert "max_grad_norm" not in caplog.text
    assert not [each for each in ppo.logger.output_formats if "steadynorm" in type(each).__module__]


def test_the_agents_clip_is_the_algorithms_own(stub: StubServer) -> None:
    own, agents = make_ppo(0.5).learn(32), make_ppo()
    agents.learn(32, callback=SteadyNormCallback(server=stub.url, mode="clip", clip_norm=0.5))
    assert min(stub.run.column("raw_norm")) > 0.6
    for one, other in zip(own.policy.parameters(), agents.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_clip_that_hides_norms_is_warned_of(stub: StubServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="steadynorm")
    make_ppo(0.5).learn(32, callback=SteadyNormCallback(server=stub.url, mode="observe"))
    assert max(stub.run.column("raw_norm")) == pytest.approx(0.5, rel=1e-3)
    assert "max_grad_norm=0.5 clips the gradients before steadynorm sees them" in caplog.text
    assert 'mode="clip", clip_norm=0.5' in caplog.text


@pytest.mark.parametrize("algorithm", [SAC, DQN])
def test_each_optimizer_of_the_policy_is_attached(
    stub: StubServer, algorithm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    game, clip = ("Pendulum-v1", {}) if algorithm is SAC else ("CartPole-v1", {"max_grad_norm": NO_CLIP})
    learner = algorithm(
        "MlpPolicy", game, learning_starts=8, train_freq=2, gradient_steps=2, batch_size=4, seed=0, device="cpu",
        policy_kwargs={"net_arch": [8]}, **clip,
    )  # fmt: skip
    learner.learn(20, callback=SteadyNormCallback(server=stub.url))
    assert stub.run.steps == list(range(1, 13)), "a step is one round"
    prefixes = {each.name.partition(".")[0] for each in stub.run.registrations[0].parameters}
    assert prefixes == ({"actor", "critic"} if algorithm is SAC else {"q_net"})
    assert not [each.getMessage() for each in caplog.records if each.name == "steadynorm" and each.levelno > 20]


def test_an_operators_checkpoint_is_saved_and_a_stop_ends_the_training(
    tmp_path: Path, stub: StubServer, until: Until
) -> None:
    callback = SteadyNormCallback(server=stub.url, save_path=tmp_path)

    def ask(**changes: object) -> None:
        assert callback.agent is not None
        assert callback.agent.flush(20)
        revision = stub.change(**changes)
        until(lambda: callback.agent and callback.agent._mailbox.seen_revision == revision)

    ppo = make_ppo()
    actions = [At(70, lambda: ask(checkpoint_generation=1)), At(140, lambda: ask(stop=True))]
    ppo.learn(10_000, callback=[callback, *actions])
    assert ppo.num_timesteps < 300
    (saved,) = tmp_path.glob("steadynorm-step=*.zip")
    assert int(saved.stem.partition("=")[2]) in range(8, 20)
    assert PPO.load(saved, device="cpu").num_timesteps < ppo.num_timesteps
    assert stub.run.finish is not None
    assert stub.run.finish.state == "stopped"


def test_after_a_training_that_raised_a_logger_of_the_users_writes_once(stub: StubServer) -> None:
    def fail() -> None:
        raise RuntimeError("the environment is gone")

    callback, ppo = SteadyNormCallback(server=stub.url, run="twice"), make_ppo()
    ppo.set_logger(configure(None, []))
    with pytest.raises(RuntimeError, match="gone"):
        ppo.learn(96, callback=[callback, At(20, fail)])
    ppo.learn(96, callback=callback)
    sent = [
        step
        for batch in list(stub.runs.values())[-1].batches
        for group in batch.logged
        if "train/entropy_loss" in group.names
        for step in group.steps
    ]
    assert sent == [4, 8]
