"""What rows were measured with: scores hang on it in their last digits, the text of `language` on Python's version."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

__all__ = ["FILE", "note", "read"]

FILE = "machine.txt"


def note(folder: Path, device: str) -> None:
    """Add this machine to the file, if it is not there yet."""
    kind = torch.backends.cpu.get_cpu_capability() if device == "cpu" else torch.cuda.get_device_name(device)
    line = f"Python {platform.python_version()}, torch {torch.__version__}, {device} ({kind})"
    known = read(folder)
    if line not in known:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text("".join(f"{one}\n" for one in (*known, line)), "utf-8")


def read(folder: Path) -> list[str]:
    """The machines, the first one first; none where nothing was measured."""
    file = folder / FILE
    return file.read_text("utf-8").splitlines() if file.exists() else []
