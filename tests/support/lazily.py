"""Modules that are imported where they are first used, and not by every process that collects the tests."""

from __future__ import annotations

import importlib
from typing import Any


class Lazily:
    """A module whose import waits for the first use of a public name in it.

    importlib's LazyLoader will not do: `inspect.getmodule` looks at all that sys.modules has, which would import it.
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_", "pytest")):  # pytest asks each object of a test module what it is
            raise AttributeError(name)
        return getattr(importlib.import_module(self._module), name)
