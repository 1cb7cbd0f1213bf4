"""What a run was started with: complete enough to compare, and never a secret."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

import steadynorm
from steadynorm import run_environment
from steadynorm.run_config import clean_config
from steadynorm.run_environment import command_line, environment, git_state
from steadynorm_contract.configuration import MAX_CONFIG_BYTES

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training


@dataclasses.dataclass
class Optimizer:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


def test_a_nested_configuration_is_sent_as_json_takes_it(training: Training, stub: StubServer) -> None:
    config = {
        "optimizer": Optimizer(),
        "args": argparse.Namespace(seed=1, resume=None),
        "dtype": torch.bfloat16,
        "limit": math.inf,
        "data": [Path("a/b"), {"mix": 0.5}],
        7: True,
        "surrogate": "\udc80",
    }
    with steadynorm.attach(training.model, training.optimizer, server=stub.url, config=config) as agent:
        training.step()
        agent.flush()
    registered = stub.run.registrations[-1]
    assert registered.config == {
        "optimizer": {"lr": 1e-3, "betas": [0.9, 0.95]},
        "args": {"seed": 1, "resume": None},
        "dtype": "torch.bfloat16",
        "limit": "inf",
        "data": ["a/b", {"mix": 0.5}],
        "7": True,
        "surrogate": "?",
    }
    assert registered.environment["library.torch"] == torch.__version__
    assert registered.environment["device"] == "cpu"
    assert registered.environment["python"] == ".".join(map(str, sys.version_info[:3]))


def test_whoever_does_not_want_to_tell_tells_nothing(training: Training, stub: StubServer) -> None:
    with steadynorm.attach(training.model, training.optimizer, server=stub.url, record_environment=False) as agent:
        training.step()
        agent.flush()
    assert stub.run.registrations[-1].environment == {}


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ([1], TypeError, "config must be a dictionary, a dataclass or a Namespace: got list"),
        ({"x": "y" * MAX_CONFIG_BYTES}, ValueError, "at most 65536 bytes as JSON: got 65544"),
    ],
)
def test_what_is_no_configuration_is_refused(config: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        clean_config(config)


def test_a_configuration_that_holds_itself_is_refused() -> None:
    config: dict[str, Any] = {}
    config["self"] = config
    with pytest.raises(ValueError, match="nested at most 20 deep"):
        clean_config(config)


def test_secrets_are_hidden_by_their_names_and_in_addresses() -> None:
    secrets = ("password", "db_passwd", "API_KEY", "aws_secret_access_key", "hf_token", "token", "auth-token")
    assert clean_config(dict.fromkeys(secrets, "x")) == dict.fromkeys(secrets, "[hidden]")
    harmless = {"max_tokens": 5, "pad_token": "<pad>", "tokenizer": "bpe", "key_dim": 64}
    assert clean_config(harmless) == harmless
    assert clean_config({"url": "postgres://me:word@host/db"}) == {"url": "postgres://[hidden]@host/db"}
    line = ["python", "train.py", "--lr=1", "--api-key", "abc", "--password=abc", "HF_TOKEN=abc", "http://u:abc@h/"]
    assert "abc" not in command_line(line)
    assert command_line(line).startswith("python train.py --lr=1 --api-key '[hidden]'")


def test_only_listed_variables_are_told() -> None:
    told = environment(["cpu"], {"SLURM_JOB_ID": "17", "WANDB_API_KEY": "secret", "AWS_SECRET": "s", "HOME": "/x"})
    assert {name for name in told if name.startswith("variable.")} == {"variable.SLURM_JOB_ID"}
    assert "secret" not in json.dumps(told)


def test_the_commit_is_told_and_whether_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        named = ("-c", "user.name=x", "-c", "user.email=x@x")
        return subprocess.run(
            ["git", *named, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    moments = iter(range(0, 1000, 100))
    monkeypatch.setattr(run_environment, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    assert git_state(tmp_path) == {}
    git("init", "-q")
    (tmp_path / "train.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "x")
    commit = git("rev-parse", "HEAD").strip()
    assert git_state(tmp_path) == {"git.commit": commit, "git.dirty": "no"}
    (tmp_path / "train.py").write_text("2")
    assert git_state(tmp_path) == {"git.commit": commit, "git.dirty": "yes"}
