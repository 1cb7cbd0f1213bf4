"""steadynorm's agent, the part that runs in the training process.

    agent = steadynorm.attach(model, optimizer, run="gpt-small")     # recorded, stabilized, changed live
    stabilizer = steadynorm.GradientStabilizer(model.named_parameters())      # the stabilizer alone
    client = steadynorm.Client()                            # the server's HTTP API, from a script or a notebook

Importing this module does not import torch; using a name that needs torch does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from steadynorm_contract import __version__

if TYPE_CHECKING:
    from steadynorm.agent import Agent
    from steadynorm.attachment import attach
    from steadynorm.recovery.orders import RollbackEvent
    from steadynorm.recovery_options import DETECTORS, Recovery
    from steadynorm.stabilizer.stabilizer import GradientStabilizer
    from steadynorm_contract.changes import PRESETS
    from steadynorm_contract.client import Client
    from steadynorm_contract.settings import Mode, Settings

__all__ = [
    "DETECTORS",
    "PRESETS",
    "Agent",
    "Client",
    "GradientStabilizer",
    "Mode",
    "Recovery",
    "RollbackEvent",
    "Settings",
    "__version__",
    "attach",
]

_MODULES = {
    "Agent": "steadynorm.agent",
    "Client": "steadynorm_contract.client",
    "DETECTORS": "steadynorm.recovery_options",
    "GradientStabilizer": "steadynorm.stabilizer.stabilizer",
    "Mode": "steadynorm_contract.settings",
    "PRESETS": "steadynorm_contract.changes",
    "Recovery": "steadynorm.recovery_options",
    "RollbackEvent": "steadynorm.recovery.orders",
    "Settings": "steadynorm_contract.settings",
    "attach": "steadynorm.attachment",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError(
            f"steadynorm.{name} needs PyTorch, which is not installed: pip install 'steadynorm[agent]'", name="torch"
        ) from error
    value: object = getattr(module, name)
    globals()[name] = value  # the next access finds it there
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
