"""How runs differ: their applied settings, who changed them last, and how they were started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.configuration import RunConfiguration, flattened
from steadynorm_contract.runs import RevisionState, RunDetail
from steadynorm_contract.settings import by_name
from steadynorm_dashboard.formatting import escaping, numbers

_ACTIONS = ("reset_generation", "checkpoint_generation", "rollback_generation", "rollback_to", "stop")
"""One-time actions, which say nothing about how a run trains."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The values of one setting, or of one fact about the start, in every run. Not escaped."""

    what: str
    values: list[str]  # one per run
    changed: list[str]  # for each run in which it was changed: by whom last, and at which step

    @property
    def differs(self) -> bool:
        """Whether two runs have different values."""
        return len(set(self.values)) > 1


def labels(runs: Sequence[RunDetail]) -> list[str]:
    """A distinct short name for each run: its name, with the end of its id where two have the same name."""
    names = [escaping.visible(run.name, 60) for run in runs]
    return [
        f"{name} ({run.run_id[-8:]})" if names.count(name) > 1 else name for name, run in zip(names, runs, strict=True)
    ]


def differences(
    runs: Sequence[RunDetail],
    audits: Mapping[str, Sequence[AuditEntry]],
    started_with: Mapping[str, RunConfiguration] | None = None,
) -> list[Difference]:
    """Those that differ come first; settings before facts. audits: newest first; started_with: both by run id."""
    shown = labels(runs)
    applied = [by_name(run.applied.settings) for run in runs]
    desired = [by_name(run.desired.settings) for run in runs]
    found = []
    for name in dict.fromkeys(name for each in applied for name in each):  # knobs are each run's own
        if name in _ACTIONS:
            continue
        values = [
            _value(name, now, soon) if name in now else numbers.MISSING
            for now, soon in zip(applied, desired, strict=True)
        ]
        changed = [
            f"{label}: {_last_change(entry)}"
            for label, run in zip(shown, runs, strict=True)
            if (entry := _last(name, audits.get(run.run_id, ()))) is not None
        ]
        found.append(Difference(name, values, changed))
    for what, facts in {**_facts(runs), **_started(runs, started_with or {})}.items():
        found.append(Difference(what, facts, []))
    return sorted(found, key=lambda one: not one.differs)


def _value(name: str, now: Mapping[str, object], soon: Mapping[str, object]) -> str:
    then = soon.get(name, now[name])
    return numbers.setting(now[name]) + (f" → {numbers.setting(then)} pending" if now[name] != then else "")


def rows(found: Sequence[Difference], runs: Sequence[RunDetail]) -> list[dict[str, object]]:
    """Rows of a table with a column per run."""
    shown = labels(runs)
    table: list[dict[str, object]] = []
    for one in found:
        row: dict[str, object] = {"setting": escaping.visible(one.what)}
        row |= {label: escaping.visible(value) for label, value in zip(shown, one.values, strict=True)}
        row["last changed by"] = escaping.visible("; ".join(one.changed), 400)
        table.append(row)
    return table


def _last(name: str, entries: Sequence[AuditEntry]) -> AuditEntry | None:
    """The newest change of a setting that is applied or pending."""
    live = (RevisionState.APPLIED, RevisionState.PENDING)
    return next((entry for entry in entries if name in entry.after and entry.state in live), None)


def _last_change(entry: AuditEntry) -> str:
    where = f" @ step {entry.applied_step:,}" if entry.applied_step is not None else ", pending"
    return f"{entry.actor}, r{entry.revision}{where}{f' ({entry.reason})' if entry.reason else ''}"


def _started(runs: Sequence[RunDetail], known: Mapping[str, RunConfiguration]) -> dict[str, list[str]]:
    """What they were started with: their configurations, entry by entry, and their environments."""
    found = [known.get(run.run_id, RunConfiguration()) for run in runs]
    tables = [
        {f"config {name}": value for name, value in (flattened(each.config) if each.config else ())} | each.environment
        for each in found
    ]
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: [table.get(name, numbers.MISSING) for table in tables] for name in names}


def _facts(runs: Sequence[RunDetail]) -> dict[str, list[str]]:
    facts = {
        "parameter tensors": [f"{run.parameters:,}" for run in runs],
        "ranks": [str(run.world_size) for run in runs],
        "framework": [run.framework or numbers.MISSING for run in runs],
        "agent": [run.agent_version or numbers.MISSING for run in runs],
        "host": [run.host or numbers.MISSING for run in runs],
    }
    for key in sorted({key for run in runs for key in run.tags}):
        facts[f"tag {key}"] = [run.tags.get(key, numbers.MISSING) for run in runs]
    return facts
