"""steadynorm's agent: it lives in the training process.

    agent = steadynorm.attach(model, optimizer, run="gpt-small")     # watched, stabilized, changed live
    stabilizer = steadynorm.GradientStabilizer(model.named_parameters())      # the mathematics alone
    client = steadynorm.Client()                                              # the server, from a notebook

Importing this module loads no torch; using a name from it does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from steadynorm_contract import __version__

if TYPE_CHECKING:
    from steadynorm.agent import Agent
    from steadynorm.attachment import attach
    from steadynorm.stabilizer.stabilizer import GradientStabilizer
    from steadynorm_contract.changes import PRESETS
    from steadynorm_contract.client import Client
    from steadynorm_contract.settings import Mode, Settings

__all__ = ["PRESETS", "Agent", "Client", "GradientStabilizer", "Mode", "Settings", "__version__", "attach"]

_HOMES = {
    "Agent": "steadynorm.agent",
    "Client": "steadynorm_contract.client",
    "GradientStabilizer": "steadynorm.stabilizer.stabilizer",
    "Mode": "steadynorm_contract.settings",
    "PRESETS": "steadynorm_contract.changes",
    "Settings": "steadynorm_contract.settings",
    "attach": "steadynorm.attachment",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_HOMES[name])
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError(
            f"steadynorm.{name} needs PyTorch, and this Python has none: pip install 'steadynorm[agent]'", name="torch"
        ) from error
    value: object = getattr(module, name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
