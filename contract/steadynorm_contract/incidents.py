"""What people did about an incident: a spike, a non-finite gradient, or another event of a run."""

import enum

import msgspec

__all__ = ["IncidentState", "IncidentStatus"]


class IncidentState(enum.StrEnum):
    """What people did about an incident."""

    TAKEN = "taken"
    CLOSED = "closed"


class IncidentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An incident that somebody took or closed."""

    event: str  # id of the event
    step: int  # of the event
    state: IncidentState
    by: str  # who deals with it, or who closed it
    time: float  # Unix seconds since when
