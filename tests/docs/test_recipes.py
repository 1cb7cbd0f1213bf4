"""What the recipes of the pages do to a training: the norms that reach the optimizer, in calm and at a spike."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.interpreter import TORCH, Interpreter
from tests.support.local_server import RunningStack

from steadynorm_contract.events import EventKind

ADDRESS = "http://127.0.0.1:8470"
SNIPPETS = Path(__file__).parents[2] / "docs" / "snippets"
RUNS = ("gpt-small", "cartpole-ppo", "titan")  # as the pages name them
STEPS, SPIKE = 300, 250
CLIPPED: dict[str, tuple[str, str]] = {  # a program of two variants: the mode of each
    "pytorch_clipping": ("clip", "observe"),
    "accelerate_loop": ("stabilize", "clip"),
    "lightning_trainer": ("stabilize", "clip"),
    "transformers_trainer": ("stabilize", "clip"),
    "stable_baselines3_ppo": ("stabilize", "clip"),
    "torchtitan_loop": ("stabilize", "observe"),
}
LIMITS = {"stable_baselines3_ppo": 0.5}  # of the clip; else 1
SHORTER = {"torchtitan_loop": (120, 100)}  # steps, and which of them spikes
LONGER: dict[str, dict[str, str]] = {  # as many steps of each variant
    "pytorch_clipping": {"range(5)": "range(300)"},
    "accelerate_loop": {"torch.randn(64, 8)": "torch.randn(4800, 8)", "agent.step == 4": "agent.step == 300"},
    "lightning_trainer": {"torch.randn(320, 8)": "torch.randn(4800, 8)"},
    "transformers_trainer": {
        'TrainingArguments("out", ': 'TrainingArguments("out", max_steps=300, save_strategy="no", '
    },
    "stable_baselines3_ppo": {"STEPS = 640": "STEPS = 1920"},  # moves; ten steps of the optimizer for 64
    "torchtitan_loop": {"STEPS, MICROBATCHES = 10": "STEPS, MICROBATCHES = 120"},
}
FRAMEWORKS = {  # and what takes longer to import than the program runs
    "accelerate_loop": ("accelerate",),
    "lightning_trainer": ("lightning",),
    "transformers_trainer": ("transformers.trainer",),
    "trl_trainers": ("trl.trainer.sft_trainer", "trl.trainer.grpo_trainer"),
    "stable_baselines3_ppo": ("stable_baselines3",),
}
ACCUMULATED = {"accelerate_loop": 2, "torchtitan_loop": 2}
ENTRIES = {"torchtitan_loop": 3}  # for a step: those of two optimizers, and of their container
Norms = list[list[float]]
Watch = Callable[..., Norms]


@pytest.fixture
def watch(stack: RunningStack, root: Path, tmp_path: Path, python: Interpreter) -> Watch:
    """watch("name", *calls of backward() that spike, **replaced) -> the norms that its optimizers step with."""

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    one_rank = {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def run(name: str, *spikes: int, replaced: dict[str, str] | None = None) -> Norms:
        text = text_of(name).replace(ADDRESS, stack.server)
        for old, new in (replaced or {}).items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "program.py").write_text(text)
        own = {key: value for key, value in os.environ.items() if not key.startswith("STEADYNORM_")}
        ended = python.run(
            str(root / "tests" / "docs" / "norms_at_the_optimizer.py"), "program.py", "norms.json", *map(str, spikes),
            cwd=tmp_path, timeout_s=300, modules=(*TORCH, *FRAMEWORKS.get(name, ())),
            env={
                **own, **(one_rank if name == "torchtitan_loop" else {}),
                "STEADYNORM_HOME": str(stack.home), "STEADYNORM_SERVER": stack.server, "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "STEADYNORM_RUN": name.replace("_", "-"),
            },
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        norms: Norms = json.loads((tmp_path / "norms.json").read_text())
        return norms

    return run


def text_of(name: str) -> str:
    """The snippet's text."""
    return (SNIPPETS / f"{name}.py").read_text("utf-8")


def total(norms: list[float]) -> float:
    """The norm over all tensors."""
    return math.hypot(*norms)


def gives_a_spike_its_due(norms: Norms, spike: int) -> None:
    """In stabilize: each tensor has a norm of about 1, and the step that spikes counts as good as nothing."""
    tensors = len(norms[0])
    calm = [total(step) for step in norms[20 : spike - 1]]
    assert 0.5 * math.sqrt(tensors) < sum(calm) / len(calm) < 2 * math.sqrt(tensors), "each tensor has about 1"
    assert total(norms[spike - 1]) < 0.1 * min(calm), "counts as good as nothing"
    assert total(norms[-1]) > 0.5 * min(calm), "and holds nothing back afterwards"


def is_clipped(norms: Norms, spike: int, limit: float) -> None:
    """By the agent, or by a clip that it looks behind."""
    assert max(map(total, norms)) == pytest.approx(limit, rel=1e-3), "never above the clip"
    assert total(norms[spike - 1]) == pytest.approx(limit, rel=1e-3)


def recorded(stack: RunningStack, name: str, spike: int) -> list[str]:
    """The modes of the runs of a name, each of which recorded the spike as large as it was, whatever was clipped."""
    runs = stack.client.runs(name=name).runs
    for run in runs:
        found = [event for event in stack.client.events(run.run_id).events if event.kind is EventKind.SPIKE]
        ratios = {event.step: event.value or 0.0 for event in found}
        assert ratios[spike] > 50
    return sorted(run.applied.settings.mode for run in runs)


@pytest.mark.parametrize("name", CLIPPED)
def test_stabilize_gives_a_spike_its_due_and_a_clip_cuts_it(stack: RunningStack, watch: Watch, name: str) -> None:
    renamed = {f'run="{run}"': f'run="recipe-{name}"' for run in RUNS if f'run="{run}"' in text_of(name)}
    calls = ACCUMULATED.get(name, 1)
    steps, spike = SHORTER.get(name, (STEPS, SPIKE))
    norms = watch(name, calls * spike, calls * (steps + spike), replaced={**LONGER[name], **renamed})
    norms = norms[ENTRIES.get(name, 1) - 1 :: ENTRIES.get(name, 1)]
    assert len(norms) == 2 * steps
    for mode, of_one in zip(CLIPPED[name], (norms[:steps], norms[steps:]), strict=True):
        if mode == "stabilize":
            gives_a_spike_its_due(of_one, spike)
        else:
            is_clipped(of_one, spike, LIMITS.get(name, 1.0))
    assert recorded(stack, f"recipe-{name}", spike) == sorted(CLIPPED[name])


@pytest.mark.parametrize("mode", ["stabilize", "observe"])
def test_trls_trainers_do_the_same(stack: RunningStack, watch: Watch, mode: str) -> None:
    steps, spike = 40, 30
    norms = watch(
        "trl_trainers", spike, steps + spike,
        replaced={
            '"out", ': f'"out", max_steps={steps}, save_strategy="no", ',
            "max_grad_norm=0": "max_grad_norm=0" if mode == "stabilize" else "max_grad_norm=0.01",
            'run="sft"': f'run="sft-{mode}", mode="{mode}"',
            'run="grpo"': f'run="grpo-{mode}", mode="{mode}"',
        },
    )  # fmt: skip
    assert len(norms) == 2 * steps
    for name, of_one in (("sft", norms[:steps]), ("grpo", norms[steps:])):
        if mode == "stabilize":
            gives_a_spike_its_due(of_one, spike)
        else:
            is_clipped(of_one, spike, 0.01)
        assert recorded(stack, f"{name}-{mode}", spike) == [mode]


def test_under_sgd_the_scale_of_the_clip_is_carried_over(watch: Watch) -> None:
    norms = watch("migrating", replaced={"torch.randn(32, 8)": "30 * torch.randn(32, 8)", "range(120)": "range(300)"})
    norms = norms[2:]  # without the steps of the two sections above it
    assert len(norms) == 300
    clipped, after = [total(step) for step in norms[:101]], [total(step) for step in norms[101:]]
    assert clipped == pytest.approx([1.0] * 101, rel=1e-3), "the clip was always at work"
    assert max(after) < 10, "with the clip removed first these would be hundreds"
    assert sum(after[:50]) / 50 > 0.3, "and the clip is gone"


def test_with_a_loss_scaler_the_true_gradient_is_stabilized(watch: Watch) -> None:
    norms = watch("pytorch_amp", replaced={"range(8)": "range(400)", "agent.step == 2": "agent.step == 100"})
    assert len(norms) == 100
    assert all(0.1 < norm < 3 for step in norms for norm in step)


def test_the_stabilizer_alone_gives_each_tensor_a_norm_of_about_one(watch: Watch) -> None:
    norms = watch("stabilizer_alone", 90, replaced={"range(3)": "range(100)"})
    assert all(0.1 < norm < 2.5 for step in norms[:89] for norm in step)
    assert all(2.5 < norm < 4 for norm in norms[89]), "0.4 / √(0.01 / 0.595): the ceiling after 90 steps"


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_snippet_for_a_framework_runs_and_no_clip_is_warned_of(
    here: RunningStack, name: str, python: Interpreter
) -> None:
    Path("program.py").write_text(text_of(name).replace(ADDRESS, here.server))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = python.run("program.py", env=environment, modules=(*TORCH, *FRAMEWORKS[name]), timeout_s=300)
    assert ended.returncode == 0, ended.stderr
    assert "takes back what the" not in ended.stderr
