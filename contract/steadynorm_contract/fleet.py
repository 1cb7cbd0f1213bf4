"""GET /fleet: runs with sparklines and last changes, in an order, with counts of all runs."""

import enum

import msgspec

from steadynorm_contract.audit import SettingsChange
from steadynorm_contract.runs import RevisionState, RunSummary

__all__ = ["MAX_COLUMNS", "FleetResponse", "FleetRun", "FleetSort", "LastChange", "Spark"]


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


MAX_COLUMNS = 16
"""Logged scalars of one request."""


class Spark(msgspec.Struct, frozen=True):
    """One series over the whole run in a few buckets with their extremes, so that a spike of one step is visible.

    low, high, mean: of the finite values of each bucket, to four digits; null where there is none.
    """

    low: list[float | None]
    high: list[float | None]
    mean: list[float | None] = []


class LastChange(SettingsChange, frozen=True, kw_only=True):
    """The newest entry of a run's audit list."""

    state: RevisionState


class FleetRun(RunSummary, frozen=True, kw_only=True):
    """One row of GET /fleet."""

    last_change: LastChange | None = None
    loss_spark: Spark | None = None  # null: no steps yet, or not computed in time; the next response has it
    norm_spark: Spark | None = None  # of the raw norm
    scalars: dict[str, float | None] = msgspec.field(default_factory=dict)
    """Newest values of the logged scalars that were asked for, where it has them."""


class FleetResponse(msgspec.Struct, frozen=True, kw_only=True):
    """GET /fleet. The counts are of all listed runs, whatever the filters: they tell what a filter would match."""

    runs: list[FleetRun]
    matching: int  # runs that match the filters; more than `runs` where there is a limit
    total: int
    states: dict[str, int]
    failed_lately: int = 0  # runs that failed within 24 hours
    failed_last: float | None = None  # Unix seconds at which the newest of them failed
    healths: dict[str, int]  # of live runs only
    tags: dict[str, int]  # `key=value`, the most frequent ones
    current: int = 0  # runs that are live, or failed within 24 hours
    hidden: int = 0  # listed runs that match all filters but `current`
    archived: int = 0  # archived runs that match the search, name and tags
    deleted: int = 0  # deleted runs that can still be restored, likewise
    scalars: list[str] = []  # names of logged scalars that some of the first runs have
    groups: dict[str, int] = {}  # with `group`: matching runs by the value of that tag; "": without it
