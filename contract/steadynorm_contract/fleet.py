"""GET /fleet: runs with sparklines and last changes, in an order, with counts of all runs."""

from __future__ import annotations

import enum

import msgspec

from steadynorm_contract.runs import RevisionState, RunSummary

__all__ = ["FleetResponse", "FleetRun", "FleetSort", "LastChange", "Spark"]


class FleetSort(enum.StrEnum):
    """Order of the runs. A leading minus reverses it."""

    SEVERITY = "severity"
    """Runs that need attention first: live ones by health, runs that failed today right after non-finite ones, then the
    others; newest first."""
    STARTED = "started"
    NEWEST = "-started"
    NAME = "name"
    NAME_BACK = "-name"
    STEP = "step"
    STEP_BACK = "-step"
    SPEED = "steps_per_s"
    SPEED_BACK = "-steps_per_s"
    LOSS = "loss"
    LOSS_BACK = "-loss"
    NORM = "raw_norm"
    NORM_BACK = "-raw_norm"
    SEEN = "last_seen"
    SEEN_BACK = "-last_seen"


class Spark(msgspec.Struct, frozen=True):
    """One series over the whole run in a few buckets with their extremes, so that a spike of one step is visible.

    low, high, mean: of the finite values of each bucket, to four digits; null where there is none.
    """

    low: list[float | None]
    high: list[float | None]
    mean: list[float | None] = []


class LastChange(msgspec.Struct, frozen=True, kw_only=True):
    """The newest entry of a run's audit list."""

    revision: int
    time: float  # Unix seconds
    actor: str
    reason: str
    before: dict[str, object]  # only the fields that changed
    after: dict[str, object]
    state: RevisionState


class FleetRun(RunSummary, frozen=True, kw_only=True):
    """One row of GET /fleet."""

    last_change: LastChange | None = None
    loss_spark: Spark | None = None  # null: no steps yet, or not computed in time; the next response has it
    norm_spark: Spark | None = None  # of the raw norm


class FleetResponse(msgspec.Struct, frozen=True, kw_only=True):
    """GET /fleet. The counts are of all runs, whatever the filters: they tell what a filter would match."""

    runs: list[FleetRun]
    matching: int  # runs that match the filters; more than `runs` where there is a limit
    total: int
    states: dict[str, int]
    failed_lately: int = 0  # runs that failed within 24 hours
    failed_last: float | None = None  # Unix seconds at which the newest of them failed
    healths: dict[str, int]  # of live runs only
    tags: dict[str, int]  # `key=value`, the most frequent ones
