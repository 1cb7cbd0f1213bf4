"""What a process was started with: facts that it finds by itself.

No variable is read but those of VARIABLES, and what may be a secret by its name is hidden.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import platform
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from steadynorm.run_config import without_passwords
from steadynorm_contract.configuration import HIDDEN, MAX_FACT_LENGTH, is_secret

LIBRARIES = (
    *("torch", "triton", "numpy", "transformers", "accelerate", "trl", "peft", "datasets", "tokenizers"),
    *("lightning", "pytorch_lightning", "deepspeed", "torchtitan", "flash_attn", "xformers", "bitsandbytes"),
    *("torchvision", "torchaudio", "stable_baselines3", "gymnasium", "hydra", "omegaconf", "wandb", "mlflow"),
)
"""Their versions are told where the process has imported them."""

VARIABLES = (
    *("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_NAME", "SLURM_JOB_PARTITION"),
    *("SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "SLURM_RESTART_COUNT", "SLURM_CLUSTER_NAME"),
    *("POD_NAME", "POD_NAMESPACE", "JOB_NAME", "JOB_COMPLETION_INDEX"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF", "NCCL_ALGO", "NCCL_PROTO"),
)
"""The only variables that are told."""

_log = logging.getLogger("steadynorm")
_WAIT_S = 0.7
_GIT_WITHIN_S = 3.0
_GIT_STATE_S = 10.0


def command_line(arguments: Sequence[str]) -> str:
    """A command line without values of options that may be secrets."""
    shown, hides = [], False
    for argument in arguments:
        name, separator, _ = argument.partition("=")
        secret = argument.startswith("-") and is_secret(name.lstrip("-"))
        if hides:
            shown.append(HIDDEN)
        elif (secret or is_secret(name)) and separator:
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(argument)
        hides = secret and not separator and not hides
    return without_passwords(shlex.join(shown))


def environment(devices: Iterable[str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the process finds. Runs git, so it takes a moment: not for the training thread.

    devices: names of the devices that hold the parameters.
    """
    program = Path(sys.argv[0] or ".").resolve()
    found = {
        "command": command_line([Path(sys.executable).name, *sys.argv]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
        "device": ", ".join(dict.fromkeys(devices)),
        **git_state(program.parent if program.is_file() else Path.cwd()),
        **{f"library.{name}": version for name in LIBRARIES if name in sys.modules and (version := _version(name))},
        **{f"variable.{name}": environ[name] for name in VARIABLES if environ.get(name)},
    }
    return {name: without_passwords(value)[:MAX_FACT_LENGTH] for name, value in found.items() if value}


def git_state(folder: Path) -> dict[str, str]:
    """The commit that is checked out in `folder`, and whether tracked files differ from it. Empty without one."""
    return dict(_git_state(folder, int(time.monotonic() / _GIT_STATE_S)))


@functools.lru_cache(4)
def _git_state(folder: Path, moment: int) -> dict[str, str]:
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"git.commit": commit, **({} if changes is None else {"git.dirty": "yes" if changes else "no"})}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails or takes long."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_WITHIN_S,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(sys.modules[module], "__version__", ""))


class EnvironmentReader:
    """Finds the facts in a thread of its own, from now on. `facts` gets all of them at one moment."""

    def __init__(self, devices: Iterable[str]) -> None:
        self.facts: dict[str, str] = {}
        self._devices = list(devices)
        self._thread = threading.Thread(target=self._read, name="steadynorm-environment", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Before the registration that has them: not for long, since data waits for it."""
        self._thread.join(_WAIT_S)

    def _read(self) -> None:
        try:
            self.facts.update(environment(self._devices))
        except Exception:
            _log.debug("what the run was started with cannot be read", exc_info=True)
