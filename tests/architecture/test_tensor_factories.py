"""Every tensor that the agent makes names its dtype and its device.

A training program may set torch's defaults, which a factory call without them follows: statistics in float16 overflow,
and a buffer on the wrong device raises.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FACTORIES = {
    *("arange", "as_tensor", "asarray", "empty", "empty_permuted", "empty_strided", "eye", "full", "linspace"),
    *("logspace", "normal", "ones", "rand", "randint", "randn", "randperm", "range", "scalar_tensor"),
    *("sparse_bsc_tensor", "sparse_bsr_tensor", "sparse_compressed_tensor", "sparse_coo_tensor", "sparse_csc_tensor"),
    *("sparse_csr_tensor", "tensor", "tril_indices", "triu_indices", "zeros"),
    *("bartlett_window", "blackman_window", "hamming_window", "hann_window", "kaiser_window"),
}
OF_DEVICE = {"Generator"}  # has no dtype
IN_HOST_MEMORY = {"frombuffer": "dtype"}  # has no device
OLD_CONSTRUCTORS = {"Tensor", "FloatTensor", "DoubleTensor", "HalfTensor", "LongTensor", "IntTensor", "BoolTensor"}


def faults(source: str) -> list[str]:
    """A sentence for each call that lets torch's defaults decide."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            names = {alias.name for alias in node.names} & FACTORIES
            found += [f"line {node.lineno}: import torch and call torch.{name}" for name in sorted(names)]
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        of_torch = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "torch"
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        if name in OLD_CONSTRUCTORS and (of_torch or isinstance(node.func, ast.Name)):
            found.append(f"line {node.lineno}: {name}() has the default dtype")
        if not of_torch:
            continue
        needed = {"dtype", "device"} if name in FACTORIES else {"device"} if name in OF_DEVICE else set()
        needed |= {IN_HOST_MEMORY[name]} if name in IN_HOST_MEMORY else set()
        if missing := needed - {keyword.arg for keyword in node.keywords}:
            found.append(f"line {node.lineno}: torch.{name}() without {' and '.join(sorted(missing))}")
    return found


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("torch.zeros(3, dtype=torch.float32, device='cpu')", None),
        ("torch.zeros_like(other)", None),
        ("torch.zeros(3, dtype=torch.float32)", "line 1: torch.zeros() without device"),
        ("torch.tensor([1.0], pin_memory=True)", "line 1: torch.tensor() without device and dtype"),
        ("torch.Generator()", "line 1: torch.Generator() without device"),
        ("torch.frombuffer(data)", "line 1: torch.frombuffer() without dtype"),
        ("from torch import zeros", "line 1: import torch and call torch.zeros"),
        ("Tensor([1.0])", "line 1: Tensor() has the default dtype"),
    ],
)
def test_the_rule_finds(source: str, fault: str | None) -> None:
    assert faults(source) == ([] if fault is None else [fault])


def test_no_tensor_of_the_agent_follows_torchs_defaults(root: Path) -> None:
    files = sorted((root / "agent" / "steadynorm").rglob("*.py"))
    assert len(files) > 30
    found = {str(path.relative_to(root)): faults(path.read_text("utf-8")) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}
