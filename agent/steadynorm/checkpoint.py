"""The agent's part of a training checkpoint: plain values and tensors, by parameter name."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import msgspec

from steadynorm.stabilizer.options import stabilizer_settings
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.step_boundary import StepBoundary
from steadynorm_contract.settings import Settings, later_settings, merge, without_later
from steadynorm_contract.words import counted

VERSION = 2
_READABLE = (1, 2)  # 1: without baselines

_ENTRIES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("run", "run_id"), (str,)),
    **dict.fromkeys(("step", "revision"), (int,)),
    **dict.fromkeys(("settings", "parameters"), (Mapping,)),
    "observe_steps": (int, NoneType),
    "modes": (list, tuple),
}

_log = logging.getLogger("steadynorm")


@dataclass(frozen=True, slots=True)
class Restored:
    """The run that the state belongs to. same_table: it has exactly this model's parameters."""

    run: str
    run_id: str
    step: int
    step_offset: int  # of the numbers under which steps are recorded
    same_table: bool


def save(
    run: str,
    run_id: str,
    boundary: StepBoundary,
    stabilizers: Sequence[GradientStabilizer],
    recorded: int,
    step_offset: int,
) -> dict[str, Any]:
    """What `restore` needs. recorded: how many stabilizers the run's table covers. Waits for the device."""
    states = [stabilizer.state_dict() for stabilizer in stabilizers]
    revision, settings = boundary.applied
    return {
        "version": VERSION,
        "run": run,
        "run_id": run_id,
        "step": boundary.step,
        "step_offset": step_offset,
        "revision": revision,
        "settings": msgspec.to_builtins(without_later(settings)),
        "later_settings": later_settings(settings),  # that versions of before do not have: they read the others
        "observe_steps": boundary.observe_left,
        "keeps_snapshots": boundary.keeps_snapshots,
        "unrecorded": [name for stabilizer in stabilizers[recorded:] for name in stabilizer.names],
        "modes": [str(state["mode"]) for state in states],
        "clip": states[0]["clip"],
        "parameters": {name: rows for state in states for name, rows in state["parameters"].items()},
    }


def restore(state: Mapping[str, Any], boundary: StepBoundary, stabilizers: Sequence[GradientStabilizer]) -> Restored:
    """Continue from `state`. Names that only one side has are listed in a warning, and the rest is loaded.

    `stop` and `paused` are not restored: they were meant for the process that wrote the checkpoint.
    Raises ValueError or SettingsError for a state that is not an agent's, and then changes nothing.
    """
    if not isinstance(state, Mapping) or state.get("version") not in _READABLE:
        found = state.get("version") if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(
            f"the agent's state must have version 1 or {VERSION}: got {found!r}. "
            "Pass what agent.state_dict() returned; if you did, upgrade steadynorm."
        )
    for name, kinds in _ENTRIES.items():
        if not isinstance(state.get(name, ...), kinds):
            what = type(state[name]).__name__ if name in state else "no such entry"
            raise ValueError(f"the agent's state has {name}: got {what}. Pass all that agent.state_dict() returned.")
    settings = Settings(**{**state["settings"], "stop": False, "paused": False})
    # Without them, those in force stay: detail_every as attached.
    settings = merge(settings, {**later_settings(boundary.settings), **state.get("later_settings", {})})
    # Whether snapshots are kept is decided by attach(); what operators chose for them since holds.
    if not (boundary.keeps_snapshots and state.get("keeps_snapshots")):
        settings = msgspec.structs.replace(settings, recovery=boundary.settings.recovery)
    saved: Mapping[str, Any] = state["parameters"]
    modes: Sequence[str] = state["modes"]
    if len(modes) != len(stabilizers):
        modes = [modes[0] if modes else settings.mode.value] * len(stabilizers)
    missing: list[str] = []
    prepared = []
    for stabilizer, mode in zip(stabilizers, modes, strict=True):
        own = stabilizer.state_dict()
        missing += [name for name in stabilizer.names if name not in saved]
        parameters = {name: saved.get(name, fresh) for name, fresh in own["parameters"].items()}
        ready = {"mode": mode, "settings": stabilizer_settings(settings), "parameters": parameters}
        prepared.append({**own, **ready, "clip": state.get("clip")})
    for stabilizer, ready in zip(stabilizers, prepared, strict=True):
        stabilizer.load_state_dict(ready)

    known = {name for stabilizer in stabilizers for name in stabilizer.names}
    unknown = [name for name in saved if name not in known]
    if missing:
        _log.warning(
            "the checkpoint lacks %s, started afresh: %s", counted(len(missing), "parameter"), _listed(missing)
        )
    if unknown:
        _log.warning(
            "the checkpoint has %s that the model lacks: %s", counted(len(unknown), "parameter"), _listed(unknown)
        )
    boundary.restore(state["step"], state["revision"], settings, state["observe_steps"])
    same_table = not (missing or unknown or state.get("unrecorded"))
    return Restored(state["run"], state["run_id"], state["step"], state.get("step_offset", 0), same_table)


def _listed(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
