"""When the kernels are used, and that a GPU's compiler takes them."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from steadynorm.stabilizer.kernels import selection
from steadynorm.stabilizer.stabilizer import GradientStabilizer


def one_parameter() -> list[tuple[str, torch.nn.Parameter]]:
    return [("p", torch.nn.Parameter(torch.zeros(3)))]


@pytest.mark.parametrize("switch", ["", "0", "1"])
def test_on_the_cpu_torch_does_it_all(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYNORM_KERNELS", switch)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert GradientStabilizer(one_parameter())._kernels is None


def test_a_switch_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYNORM_KERNELS", "yes")
    with pytest.raises(ValueError, match="STEADYNORM_KERNELS must be 0 or 1: got 'yes'"):
        GradientStabilizer(one_parameter())


@pytest.mark.parametrize("outcome", ["agrees", "differs", "raises"])
def test_a_device_is_proven_once_a_process_and_a_failed_proof_says_so_once(
    outcome: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[torch.device] = []

    def differences(device: torch.device) -> list[str]:
        asked.append(device)
        if outcome == "raises":
            raise OSError("no compiler here")
        return ["step 3: a scale of 2"] if outcome == "differs" else []

    monkeypatch.setattr(selection, "_verified", {})
    monkeypatch.setattr(
        importlib.import_module("steadynorm.stabilizer.kernels.verification"), "differences", differences
    )
    device = torch.device("cuda", 1)
    with caplog.at_level(logging.WARNING, "steadynorm"):
        assert [selection._is_verified(device) for _ in range(3)] == [outcome == "agrees"] * 3
    assert asked == [device]
    told = {"agrees": [], "differs": ["a scale of 2"], "raises": ["OSError: no compiler here"]}[outcome]
    assert len(caplog.messages) == len(told)
    assert all(part in message for part, message in zip(told, caplog.messages, strict=True))


def printed_by(script: str, cache: Path) -> Any:
    """The JSON that a script of this folder prints, in a process without Triton's interpreter."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script))],
        env={**environment, "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_kernel_that_was_launched_once_gets_what_triton_would_give_it(tmp_path: Path) -> None:
    printed = printed_by("launch_kernels.py", tmp_path)
    searched, found = printed["searched"], printed["found"]
    assert len(searched["launches"]) == searched["searches"] > 20
    assert found["launches"] == searched["launches"]
    assert found["searches"] == 3, "once for each dtype, and once for the norms"


def test_the_kernel_compiles_for_gpus_and_moves_16_bytes_at_once(tmp_path: Path) -> None:
    """No GPU is needed to compile. In a process of its own: another test may have chosen the interpreter."""
    found = printed_by("compile_kernels.py", tmp_path)
    assert len(found) == 8
    for target, made in found.items():
        # Sums are the same at every run: no atomics. Nothing is spilled, and three programs fit a multiprocessor.
        assert not [name for name in made["memory"] if name.startswith(("atom", "red", "ld.local", "st.local"))], target
        assert made["usage"]["STACK"] == made["usage"]["LOCAL"] == 0, target
        assert 0 < made["usage"]["REG"] <= 72, target
        # Roots and quotients as the reference has them: to nearest, and small numbers are not flushed to zero.
        exact = [name for name in made["rounding"] if name.startswith(("sqrt", "div"))]
        assert exact, target
        assert all(".rn." in name and "ftz" not in name for name in exact), target
        if target.startswith("norms"):
            continue
        assert "ld.global.v4.b32" in made["memory"], target
        assert "st.global.v4.b32" in made["memory"], target
        # A product becomes a half by rounding to nearest, and never by cutting it off.
        halves = [name for name in made["rounding"] if re.fullmatch(r"cvt[.\w]*[.]b?f16(x2)?[.]f32", name)]
        assert (halves != []) == (not target.startswith("fp32")), target
        assert all(name.startswith("cvt.rn.") for name in halves), target


def test_the_gpu_benchmark_says_that_there_is_no_gpu_and_exits_with_2() -> None:
    script = Path(__file__).parents[4] / "benchmarks" / "gpu_step.py"
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "needs a CUDA device" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_proof_forgives_a_rounding_at_the_middle_and_no_truncation(dtype: torch.dtype) -> None:
    verification = importlib.import_module("steadynorm.stabilizer.kernels.verification")
    raw = torch.randn(4096, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = raw.double() * 0.7
    rounded = exact.to(dtype)
    # On a GPU, that is: on the CPU the interpreter's truncation is forgiven.
    outside = (rounded.double().abs() > exact.abs()) & (rounded != 0)
    truncated = torch.where(outside, torch.nextafter(rounded, torch.zeros_like(rounded)), rounded)

    class OnGpu(torch.Tensor):
        device = torch.device("cuda")

    assert verification.gradient_error(rounded.as_subclass(OnGpu), raw, 0.7) == 0.0
    assert verification.gradient_error(rounded.as_subclass(OnGpu), raw, 0.7 * (1 + 3e-6)) == 0.0
    assert verification.gradient_error(truncated.as_subclass(OnGpu), raw, 0.7) > 10 * verification.TOLERANCE
    assert verification.gradient_error(truncated, raw, 0.7) == 0.0
    assert verification.gradient_error(torch.zeros_like(raw), raw * torch.nan, 0.0) == 0.0
    assert verification.gradient_error(rounded, raw, 0.0) == torch.inf
