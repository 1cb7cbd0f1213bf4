"""A folder of all that the first call on a GPU needs, for a machine that has Python, torch and Triton and no network.

    python benchmarks/gpu_bundle.py                  # build/gpu, about 2 MB
    OUT=/tmp/figures bash build/gpu/run.sh           # on the GPU's machine; at most nine minutes
    OUT=/tmp/figures bash build/gpu/run.sh --cpu     # dry run anywhere, in Triton's interpreter, without timings

The agent and the contract are copied as they are, and wheels of what they import are put beside them for every Python
that they support, so the machine need not have this one. Figures come to `$OUT`: `proof.txt` (the card, versions, and
where the kernels differ from the reference), `step.json`, `first.json`, and bytes by ncu where it is installed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("agent/steadynorm", "contract/steadynorm_contract")
SCRIPTS = ("gpu_first.py", "gpu_l2_model.py", "gpu_reference.py", "gpu_step.py")
REQUIREMENTS = ("msgspec", "urllib3")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")

RUN = r"""#!/usr/bin/env bash
# Checks and timings on this machine's GPU; see gpu_bundle.py. Each part has a time of its own and may fail alone.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export OUT="${OUT:?the folder for the figures}" PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:$PWD/site"
export TRITON_CACHE_DIR="${TRITON_CACHE_DIR:-$(mktemp -d)}"
mkdir -p "$OUT"
python="${PYTHON:-python3}"
"$python" -m pip install --quiet --no-index --find-links wheels --target site --upgrade msgspec urllib3 || exit 9

cd benchmarks
if [[ "${1:-}" == --cpu ]]; then
    timeout 300 "$python" -W ignore gpu_first.py --cpu --json "$OUT/first.json" >"$OUT/first.txt" 2>&1
    status=$?
    tail -n 3 "$OUT/first.txt"
    exit "$status"
fi

{
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,temperature.gpu --format=csv
    timeout 90 "$python" proof.py
} 2>&1 | tee "$OUT/proof.txt"
timeout 130 "$python" gpu_step.py --rounds 10 --json "$OUT/step.json" >"$OUT/step.txt" 2>&1
echo "gpu_step.py: exit status $?"
timeout 230 "$python" -W ignore gpu_first.py --json "$OUT/first.json" >"$OUT/first.txt" 2>&1
echo "gpu_first.py: exit status $?"
if command -v ncu >/dev/null; then
    for dtype in float32 bfloat16; do
        timeout 45 ncu --clock-control none --cache-control none --csv --page raw -k step_kernel \
            --metrics dram__bytes_read.sum,dram__bytes_write.sum,gpu__time_duration.sum \
            "$python" gpu_first.py --one-step "$dtype" >"$OUT/ncu-$dtype.csv" 2>&1
        echo "ncu $dtype: $(grep -c step_kernel "$OUT/ncu-$dtype.csv") launches"
    done
else
    echo "no ncu here: bytes are not measured"
fi
tail -c 3500 "$OUT/step.txt"
grep -v '^ ' "$OUT/first.txt" | cut -c1-900 | tail -c 6000
"""

PROOF = '''"""Where the kernels differ from the reference on this card, before anything is timed."""

import time

import torch
import triton

from steadynorm.stabilizer.kernels.verification import differences

print("torch", torch.__version__, "triton", triton.__version__)
start = time.monotonic()
found = differences(torch.device("cuda", 0))
print(f"{len(found)} differences, {time.monotonic() - start:.1f} s", *found[:20], sep="\\n")
'''


def make(out: Path, *, wheels: bool = True) -> None:
    """Write the bundle.

    Args:
        out: Its folder, emptied first.
        wheels: False leaves out the wheels, which need the package index.
    """
    shutil.rmtree(out, ignore_errors=True)
    for package in PACKAGES:
        source = ROOT / package
        shutil.copytree(source, out / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    (out / "benchmarks").mkdir()
    for script in SCRIPTS:
        shutil.copy(ROOT / "benchmarks" / script, out / "benchmarks")
    (out / "benchmarks" / "proof.py").write_text(PROOF)
    (out / "run.sh").write_text(RUN)
    if not wheels:
        return
    for version in PYTHONS:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
                *("--only-binary", ":all:", "--python-version", version, "--dest", str(out / "wheels")),
                *("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64"),
                *("--constraint", str(ROOT / "constraints.txt"), *REQUIREMENTS),
            ],
            check=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "build" / "gpu")
    options = parser.parse_args()
    make(options.out)
    files = [path for path in options.out.rglob("*") if path.is_file()]
    print(f"{options.out}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
