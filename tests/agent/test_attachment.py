"""Wrong arguments raise at attach() and say what to do; what is missing comes from the environment."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import steadynorm
from steadynorm_contract.settings import Settings, SettingsError, merge

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"model": "gpt"}, TypeError, "model must be a torch.nn.Module: got str"),
        ({"optimizer": "adam"}, TypeError, "optimizer must be a torch.optim.Optimizer or a list of them: got str"),
        ({"optimizer": None}, TypeError, "got NoneType"),
        ({"optimizer": []}, ValueError, "at least one optimizer"),
        ({"gamma2": 1.0}, SettingsError, r"gamma2 must be in \[0, 1\): got 1.0. For a longer memory use 0.9999."),
        ({"gamma1": "0.6"}, SettingsError, "gamma1"),
        ({"mode": "fast"}, SettingsError, "Use one of off, observe, clip, stabilize"),
        ({"spike_limit": 0.5}, SettingsError, "spike_limit must be off or greater than 1"),
        ({"preset": "fast"}, SettingsError, "preset must be paper or robust: got 'fast'"),
        ({"server": "127.0.0.1:8470"}, ValueError, "server must be an address such as http://127.0.0.1:8470"),
        ({"server": "ftp://host"}, ValueError, "http or https"),
        ({"server": "http://user:pass@host"}, ValueError, "without credentials"),
        ({"server": "http://[::1"}, ValueError, "server must be"),
        ({"server": 8470}, TypeError, "server must be a string: got int"),
        ({"server": "http://127.0.0.1:1", "token": "pässwort"}, ValueError, "printable ASCII"),
        ({"server": "http://127.0.0.1:1", "token": "two\nlines"}, ValueError, "printable ASCII"),
        ({"run": ""}, ValueError, "run must have 1 to 200 characters"),
        ({"run": "x" * 201}, ValueError, "got 201"),
        ({"run": 7}, TypeError, "run must be a string"),
        ({"allow": "mode"}, TypeError, r"Use allow=\('gamma1', 'gamma2', 'mode'\)"),
        ({"allow": ("speed",)}, ValueError, "allow must name settings: got 'speed'. Known: mode"),
        ({"tags": {"a": 1}}, TypeError, "map strings to strings: got 'a': 1"),
        ({"tags": {"a": "x" * 501}}, ValueError, "values of at most 500: got 'a' of 1 with a value of 501"),
        ({"tags": dict.fromkeys(map(str, range(49)), "")}, ValueError, "tags must be at most 48: got 49"),
        ({"tags": [1]}, TypeError, "tags must be a dictionary"),
        ({"observe_steps": -1}, ValueError, "observe_steps must be at least 0: got -1"),
        ({"observe_steps": True}, TypeError, "observe_steps must be a whole number"),
        ({"detail_every": 0}, ValueError, "detail_every must be a whole number of steps from 1 to 1000"),
        ({"buffer_bytes": 10}, ValueError, "buffer_bytes must be at least"),
    ],
)
def test_a_wrong_argument_is_refused(
    training: Training, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        steadynorm.attach(**{"model": training.model, "optimizer": training.optimizer, **arguments})
    steadynorm.attach(training.model, training.optimizer).close()  # nothing was left behind


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, steadynorm.PRESETS["robust"]),
        ({"preset": "robust", "gamma1": 0.7}, {**steadynorm.PRESETS["robust"], "gamma1": 0.7}),
        ({"preset": "paper"}, steadynorm.PRESETS["paper"]),
        ({"preset": "paper", "spike_limit": 3.0}, {"spike_limit": 3.0, "spike_fade": False}),  # a default, and named
        ({"preset": "robust", "spike_fade": False}, {"spike_limit": 3.0, "spike_fade": False}),
        ({"preset": "robust", "spike_limit": None}, {"spike_limit": None, "spike_fade": True}),
    ],
)
def test_the_default_is_robust_and_what_a_call_names_takes_precedence_over_a_preset(
    training: Training, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, **options)
    assert agent.settings == merge(Settings(), expected)
    agent.close()


def test_one_optimizer_given_twice_is_refused(training: Training) -> None:
    with pytest.raises(ValueError, match="each optimizer must be given once"):
        steadynorm.attach(training.model, [training.optimizer, training.optimizer])


def test_a_second_agent_on_an_optimizer_is_refused(training: Training) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, run="first")
    with pytest.raises(RuntimeError, match=rf"already attached, to run {agent.run_id}.*close it first"):
        steadynorm.attach(training.model, training.optimizer)
    agent.close()
    steadynorm.attach(training.model, training.optimizer).close()


def test_nothing_to_stabilize_is_refused(training: Training) -> None:
    training.model.requires_grad_(False)
    with pytest.raises(ValueError, match="require a gradient: got 0"):
        steadynorm.attach(training.model, training.optimizer)


def test_without_a_server_it_works_locally_and_says_so_once(
    training: Training, caplog: pytest.LogCaptureFixture
) -> None:
    with steadynorm.attach(training.model, training.optimizer) as agent:
        for _ in range(3):
            agent.log(loss=training.step())
    assert [record.levelno for record in caplog.records if record.name == "steadynorm"] == [logging.WARNING]
    assert "no server is given" in caplog.text
    assert agent.url is None
    assert agent.step == 3
    assert agent.flush()


def test_the_environment_stands_in(training: Training, stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYNORM_SERVER", stub.url + "/")
    monkeypatch.setenv("STEADYNORM_TOKEN", "secret")
    monkeypatch.setenv("STEADYNORM_RUN", "From the environment!")
    with steadynorm.attach(training.model, training.optimizer, tags={"data": "wiki"}) as agent:
        training.step()
    assert agent.url == f"{stub.url}/api/v1/runs/{agent.run_id}"
    assert stub.run.registrations[0].name == "From the environment!"
    assert stub.run.registrations[0].tags == {"data": "wiki"}
    assert {headers["Authorization"] for _, _, _, headers in stub.requests} == {"Bearer secret"}


def test_the_users_own_server_needs_no_token_argument_and_links_to_its_dashboard(
    training: Training, stub: StubServer, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text("from-home\n")
    (tmp_path / "home" / "server.json").write_text(f'{{"server": "{stub.url}", "dashboard": "http://127.0.0.1:8501"}}')
    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        training.step()
    assert stub.requests[0][3]["Authorization"] == "Bearer from-home"
    assert agent.url == f"http://127.0.0.1:8501/?run={agent.run_id}"


def test_a_server_that_makes_its_token_later_is_believed(training: Training, stub: StubServer, tmp_path: Path) -> None:
    def wants_token(method: str, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]] | None:
        return None if "Authorization" in stub.requests[-1][3] else (401, b"", {})

    stub.fault = wants_token
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    stub.wait_for(lambda: stub.requests)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text("made-later")
    agent.close()
    assert stub.run.steps == [1]


def test_the_agent_module_loads_no_torch_and_says_what_to_install_without_it() -> None:
    program = """
import sys
sys.modules["torch"] = None  # what an environment without it looks like
import steadynorm
assert set(steadynorm.__all__) <= set(dir(steadynorm))
assert steadynorm.Settings(mode="observe").mode is steadynorm.Mode.OBSERVE
assert steadynorm.__version__
for name in ("attach", "Agent", "GradientStabilizer"):
    try:
        getattr(steadynorm, name)
    except ModuleNotFoundError as error:
        assert str(error).endswith("pip install 'steadynorm[agent]'"), error
    else:
        raise AssertionError(name)
try:
    steadynorm.detach_all
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "module 'steadynorm' has no attribute 'detach_all'\n"


def test_an_added_parameter_group_is_pointed_out(training: Training, caplog: pytest.LogCaptureFixture) -> None:
    agent = steadynorm.attach(training.model, training.optimizer)
    training.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    training.step()
    training.step()
    assert caplog.text.count("1 parameter was added to an optimizer after attach(): stabilized, but not recorded") == 1
    agent.close()
