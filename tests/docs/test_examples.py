"""The programs in examples/ in miniature, against a real server, and what their optimizers step with.

Those of the README, of the demo and of Kubernetes have tests of their own.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
from pathlib import Path

import pytest
from tests.docs.test_recipes import FRAMEWORKS
from tests.support.interpreter import TORCH, Interpreter
from tests.support.local_server import RunningStack

ELSEWHERE = {"quickstart_train", "char_gpt", "poisoned_gpt"}
SHORT = {  # what makes a program short: of so many steps
    "digits": ("STEPS, BATCH, HELD_OUT = 600,", "STEPS, BATCH, HELD_OUT = 30,"),
    "weather": ("YEAR = 300,", "YEAR = 30,"),
    "cartpole": ("DISCOUNT = 1500,", "DISCOUNT = 30,"),
    "fp4_gpt": ("STEPS = 500", "STEPS = 12"),
    "ddp_digits": ("EPOCHS, BATCH = 15, 32", "EPOCHS, BATCH = 2, 64"),
    "fsdp2_gpt": ("STEPS = 500", "STEPS = 12"),
    "lightning_digits": ("EPOCHS, BATCH = 15,", "EPOCHS, BATCH = 1,"),
    "transformers_gpt": ("STEPS, CONTEXT = 500,", "STEPS, CONTEXT = 12,"),
    "trl_sft": ("STEPS, VOCABULARY, CONTEXT = 200,", "STEPS, VOCABULARY, CONTEXT = 12,"),
}
RANKS = {"ddp_digits": 2, "fsdp2_gpt": 2}
IMPORTED = {
    "lightning_digits": FRAMEWORKS["lightning_trainer"],
    "transformers_gpt": FRAMEWORKS["transformers_trainer"],
    "trl_sft": FRAMEWORKS["trl_trainers"][:1],
}


def test_every_example_is_run_and_short(root: Path) -> None:
    texts = {path.stem: path.read_text("utf-8") for path in (root / "examples").glob("*.py")}
    assert texts.keys() == {*SHORT, *ELSEWHERE}
    page = (root / "docs" / "examples.md").read_text("utf-8")
    for name in SHORT:
        assert len(texts[name].splitlines()) <= 80, name
        assert re.findall(r"# <── (\w+)", texts[name]) == ["one", "two"], name
    assert set(re.findall(r"examples/(\w+)\.py", page)) == set(texts)


@pytest.mark.parametrize("name", SHORT)
def test_an_example_trains_with_stabilized_gradients(
    here: RunningStack, root: Path, tmp_path: Path, python: Interpreter, name: str
) -> None:
    text = (root / "examples" / f"{name}.py").read_text("utf-8")
    long, short = SHORT[name]
    assert long in text
    shutil.copytree(root / "examples", tmp_path, dirs_exist_ok=True)
    (tmp_path / f"{name}.py").write_text(text.replace(long, short))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ranks = range(RANKS.get(name, 1))
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    if len(ranks) > 1:
        variables |= {"WORLD_SIZE": str(len(ranks)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    programs = [
        python.start(
            str(root / "tests" / "docs" / "norms_at_the_optimizer.py"), f"{name}.py", f"norms{rank}.json",
            env={**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)} if len(ranks) > 1 else variables,
            cwd=tmp_path, modules=(*TORCH, *IMPORTED.get(name, ())),
        )
        for rank in ranks
    ]  # fmt: skip
    for ended in [program.result(300) for program in programs]:
        assert ended.returncode == 0, ended.stderr
        assert "steadynorm" not in ended.stderr, "a warning"
    (summary,) = here.client.runs(name=re.findall(r'run="([\w-]+)"', text)[0]).runs
    run = here.client.run(summary.run_id)
    assert (run.state.value, run.world_size) == ("finished", len(ranks))
    norms = json.loads((tmp_path / "norms0.json").read_text())
    assert run.step == len(norms) >= 10
    every = [norm for step in norms for norm in step]
    assert 0.5 < sum(every) / len(every) < 2, "each tensor has about 1"
    series = here.client.series(run.run_id, ["raw_norm", "stabilized_norm", "loss"]).series
    assert series["stabilized_norm"].mean == pytest.approx([math.hypot(*step) for step in norms], rel=1e-4)
    assert series["raw_norm"].mean != pytest.approx(series["stabilized_norm"].mean, rel=1e-2)
    assert any(loss is not None for loss in series["loss"].mean)
