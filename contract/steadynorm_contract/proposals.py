"""Proposals: changes of settings that somebody else decides on, such as those of an agent that reads through MCP."""

import enum

import msgspec

from steadynorm_contract.changes import Change

__all__ = ["MAX_PROPOSALS", "Decision", "NewProposal", "Proposal", "ProposalList", "ProposalState"]

MAX_PROPOSALS = 20
"""Open ones of one run."""


class ProposalState(enum.StrEnum):
    """Life cycle of a proposal: open, then one of the others, which are final."""

    OPEN = "open"
    APPROVED = "approved"
    REFUSED = "refused"
    WITHIN_BUDGET = "within_budget"  # the proposer's token may make such changes; nobody was asked


class NewProposal(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /runs/{run_id}/proposals. revision: the desired one that the change is based on."""

    revision: int


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /runs/{run_id}/proposals/{proposal_id}. reason: for the audit list."""

    approve: bool
    reason: str = ""


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A proposed change and what became of it."""

    id: str
    revision: int  # that it is based on
    settings: dict[str, object]
    reason: str
    proposed_by: str
    proposed_at: float  # Unix seconds
    state: ProposalState = ProposalState.OPEN
    decided_by: str = ""
    decided_at: float | None = None  # Unix seconds
    decision: str = ""  # the reason of whoever decided
    made: int | None = None  # the revision that it became; null also where nothing was left to change


class ProposalList(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/proposals: open ones first, the newest on top, then the latest decided ones.

    revision: the newest desired one. An open proposal with another `revision` can only be refused, or proposed again.
    """

    proposals: list[Proposal]
    revision: int
