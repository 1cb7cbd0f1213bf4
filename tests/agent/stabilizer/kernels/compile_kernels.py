"""Compiles the kernels for GPUs that need not be there, and prints what came of it as JSON, for test_selection.py."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton import language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from steadynorm.stabilizer.kernels.plan import BLOCK
from steadynorm.stabilizer.kernels.triton import OPTIONS, norms_kernel, step_kernel

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
KERNELS = [("norms", norms_kernel, None)]
KERNELS += [(str(each), step_kernel, each) for each in (tl.float32, tl.bfloat16, tl.float16)]


def compiled(kernel: Any, element: Any, capability: int) -> dict[str, Any]:
    constants = {} if element is None else {"ELEMENT": element, "SIZE": element.primitive_bitwidth // 8, "BLOCK": BLOCK}
    types = {"addresses": "*i64", "tables": "*i64", **dict.fromkeys(constants, "constexpr")}
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    # Both tables begin where 16 divides the address, as all memory that torch allocates does.
    aligned = {(at,): [["tt.divisibility", 16]] for at in (0, 1)}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=OPTIONS)
    ptx = made.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return {
        "memory": re.findall(r"(?:ld|st)[.](?:global|local)[.\w]*|atom[.\w]*|red[.]global[.\w]*", ptx),
        "rounding": re.findall(r"(?:cvt|sqrt|div)[.][.\w]*", ptx),
        "usage": {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)},
    }


if __name__ == "__main__":
    print(
        json.dumps({f"{name} sm_{at}": compiled(kernel, each, at) for name, kernel, each in KERNELS for at in (80, 90)})
    )
