"""The Triton kernels, run on the CPU by Triton's interpreter: see interpreted_kernels.py for what is shown."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).with_name("interpreted_kernels.py")


def test_the_kernels_do_what_the_reference_says() -> None:
    functions = [node.name for node in ast.parse(CASES.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
    expected = [name for name in functions if name.startswith("test_")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", str(CASES)],
        env={**os.environ, "TRITON_INTERPRET": "1", "STEADYNORM_KERNELS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    missing = [name for name in expected if f"::{name}" not in done.stdout]
    assert expected, "there are no cases"
    assert not missing, missing
