"""When the kernels are used, and that a GPU's compiler takes them."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from steadynorm.stabilizer.kernels import selection
from steadynorm.stabilizer.stabilizer import GradientStabilizer

COMPILE = """
import json, re
from triton import compile
from triton import language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from steadynorm.stabilizer.kernels.triton import BLOCK, CHUNK, OPTIONS, step_kernel

numbers = ("count", "scale_first", "scale_stop", "measure_first")
types = {"addresses": "*i64", "sizes": "*i64", "first_chunks": "*i32", "chunk_counts": "*i32", "columns": "*i32"}
types |= {"finite_flags": "*u8", **{name: "i32" for name in numbers}}
types |= {name: "constexpr" for name in ("ELEMENT", "CHUNK", "BLOCK")}
signature = {name: types.get(name, "*fp32") for name in step_kernel.arg_names}
found = {}
for element in (tl.float32, tl.bfloat16, tl.float16):
    source = ASTSource(step_kernel, signature, constexprs={"ELEMENT": element, "CHUNK": CHUNK, "BLOCK": BLOCK})
    for capability in (80, 90):
        made = compile(source, target=GPUTarget("cuda", capability, 32), options=OPTIONS)
        names = re.findall(r"(?:ld|st)\\.(?:global|local)[.\\w]*|atom[.\\w]*", made.asm["ptx"])
        found[f"{element} sm_{capability}"] = [names, len(made.asm["cubin"])]
print(json.dumps(found))
"""


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


def test_the_kernel_compiles_for_gpus_and_moves_16_bytes_at_once(tmp_path: Path) -> None:
    """No GPU is needed to compile. In a process of its own: another test may have chosen the interpreter."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    found = json.loads(done.stdout)
    assert len(found) == 6
    for target, (instructions, cubin_bytes) in found.items():
        assert cubin_bytes > 1000, target
        assert "ld.global.v4.b32" in instructions, target
        assert "st.global.v4.b32" in instructions, target
        # Sums are the same at every run: no atomics. And no registers are spilled.
        assert not [name for name in instructions if name.startswith(("atom", "ld.local", "st.local"))], target


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
