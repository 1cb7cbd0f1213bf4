"""Proposed changes, stored in the hash's field `proposals`: approved or refused by an operator, or within a budget."""

import secrets
from functools import partial

import msgspec

from steadynorm_contract.changes import Change
from steadynorm_contract.codec import encode_json
from steadynorm_contract.events import EventKind
from steadynorm_contract.proposals import (
    MAX_PROPOSALS,
    Decision,
    NewProposal,
    Proposal,
    ProposalList,
    ProposalState,
)
from steadynorm_contract.settings import merge, resolve_increments
from steadynorm_server import audit_log
from steadynorm_server.auth.principals import Principal
from steadynorm_server.errors import AutomationConflict, ProblemError
from steadynorm_server.redis.keys import budget_key
from steadynorm_server.runs.events import new_event
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.settings import service
from steadynorm_server.settings.conditional_writes import (
    MAX_ATTEMPTS,
    check_allowed,
    check_reason,
    compare_and_set,
    contention_error,
    validate_deferred_change,
)

FIELD = "proposals"
_DECIDED_SHOWN = 20
_MAX_REASON = 500
_DAY_S = 86_400


def list_proposals(run: RunRecord) -> ProposalList:
    """All of a run: open ones first, each part with the newest on top."""
    return ProposalList(_known(run), run.desired_revision)


async def propose(repository: RunRepository, run_id: str, new: NewProposal, sender: Principal) -> Proposal:
    """Store a proposal; or make the change, where the sender's budget has room for it.

    Raises RunNotFound, SettingsError, and problems: 409 for an ended run or too many open proposals, 412, 422.
    """
    for _ in range(MAX_ATTEMPTS):
        run = await repository.get(run_id)
        validate_deferred_change(run, new.settings, new.reason)
        check_allowed(run, merge(run.desired, resolve_increments(new.settings, run.desired), run.info.knobs or []))
        if new.revision != run.desired_revision:
            raise service.revision_conflict(run_id, new.revision, run.desired_revision)
        made = Proposal(
            id=secrets.token_hex(4), revision=new.revision, settings=new.settings, reason=new.reason,
            proposed_by=sender.name, proposed_at=repository.clock(),
        )  # fmt: skip
        try:
            if (done := await _within_budget(repository, run, made, sender)) is not None:
                return done
        except AutomationConflict:  # such as another proposal, whose base is the same revision
            continue
        if sum(each.state is ProposalState.OPEN for each in _known(run)) >= MAX_PROPOSALS:
            raise ProblemError(
                409, f"run {run_id} has {MAX_PROPOSALS} open proposals, and may not have more. Wait for a decision."
            )
        event = _event(run, made, f"{sender.name} proposes {_shown(made)}", made.proposed_at)
        line = partial(audit_log.record, "proposal", run_id, sender.name, name=run.name, entry=made)
        if await compare_and_set(repository, run, FIELD, encode_json([made, *_known(run)]), line, event):
            repository.dirty_runs.mark(run_id)
            return made
    raise contention_error(run_id)


async def decide(
    repository: RunRepository, run_id: str, proposal_id: str, decision: Decision, revision: int, sender: Principal
) -> Proposal:
    """Approve or refuse an open one. revision: the desired one that the decision is based on.

    Raises RunNotFound, SettingsError, and problems: 404, 409 for one that is decided or an ended run, 412 for one whose
    base is gone, 422.
    """
    check_reason(decision.reason)
    for _ in range(MAX_ATTEMPTS):
        run = await repository.get(run_id)
        found = _open(run, proposal_id)
        done = msgspec.structs.replace(
            found,
            state=ProposalState.APPROVED if decision.approve else ProposalState.REFUSED,
            decided_by=sender.name, decided_at=repository.clock(), decision=decision.reason,
        )  # fmt: skip
        if decision.approve:
            if not revision == found.revision == run.desired_revision:
                raise ProblemError(
                    412,
                    f"proposal {found.id} is based on revision {found.revision} of the settings of {run_id}, which are "
                    f"at revision {run.desired_revision} now. Refuse it, or have it proposed again.",
                )
            why = f": {decision.reason}" if decision.reason else ""
            reason = f"proposed by {found.proposed_by}: {found.reason or 'no reason given'}; approved{why}"
            try:
                return await _make(repository, run, done, sender.name, reason)
            except AutomationConflict:  # such as another proposal: who proposes much must not keep this from being made
                continue
        event = _event(run, done, f"{sender.name} refuses {_shown(found)}, by {found.proposed_by}", repository.clock())
        line = partial(audit_log.record, "proposal_refused", run_id, sender.name, name=run.name, entry=done)
        if await compare_and_set(repository, run, FIELD, _encoded(run, done), line, event):
            repository.dirty_runs.mark(run_id)
            return done
    raise contention_error(run_id)


async def _within_budget(
    repository: RunRepository, run: RunRecord, made: Proposal, sender: Principal
) -> Proposal | None:
    budget = sender.budget
    if budget is None or not budget.allows(made.settings):
        return None
    key, day = budget_key(sender.name), str(int(repository.clock() // _DAY_S))
    taken = await repository.redis.script("budget", [key], day, budget.changes_a_day, 1, secrets.token_hex(8))
    if taken < 0:
        return None
    done = msgspec.structs.replace(
        made, state=ProposalState.WITHIN_BUDGET, decided_by=sender.name, decided_at=made.proposed_at,
        decision=f"{taken} of {budget.changes_a_day} changes today",
    )  # fmt: skip
    reason = f"within its budget ({done.decision}): {made.reason or 'no reason given'}"
    try:
        return await _make(repository, run, done, sender.name, reason)
    except ProblemError:  # it was not made, for certain; of an error of Redis nobody knows
        await repository.redis.script("budget", [key], day, budget.changes_a_day, -1, secrets.token_hex(8))
        raise


async def _make(repository: RunRepository, run: RunRecord, done: Proposal, actor: str, reason: str) -> Proposal:
    """The change and the proposal's new state, in one script."""
    settings = resolve_increments(done.settings, run.desired)
    if merge(run.desired, settings, run.info.knobs or []) == run.desired:
        event = _event(run, done, f"{actor}: {_shown(done)} changed nothing", repository.clock())
        line = partial(audit_log.record, "proposal", run.run_id, actor, name=run.name, entry=done)
        if not await compare_and_set(repository, run, FIELD, _encoded(run, done), line, event):
            raise AutomationConflict(run.run_id)
        return done
    done = msgspec.structs.replace(done, made=run.desired_revision + 1)
    by = f", proposed by {done.proposed_by}" if done.state is ProposalState.APPROVED else " within its budget"
    event = _event(run, done, f"{actor} set {_shown(done)}{by}, as revision {done.made}", repository.clock())
    line = partial(audit_log.record, "proposal", run.run_id, actor, name=run.name, entry=done)
    effect = service.AtomicSideEffect(FIELD, _encoded(run, done), event, line)
    change = Change(settings, reason[:_MAX_REASON])
    await service.change(repository, run, change, done.revision, actor, effect)
    return done


def _known(run: RunRecord) -> list[Proposal]:
    known = msgspec.json.decode(run.proposals, type=list[Proposal]) if run.proposals else []
    return sorted(
        known, key=lambda each: (each.state is not ProposalState.OPEN, -(each.decided_at or each.proposed_at))
    )


def _open(run: RunRecord, proposal_id: str) -> Proposal:
    found = next((each for each in _known(run) if each.id == proposal_id), None)
    if found is None:
        raise ProblemError(
            404, f"run {run.run_id} has no proposal {proposal_id[:60]!r}. `steadynorm proposals` lists them.",
            title="Proposal not found",
        )  # fmt: skip
    if found.state is not ProposalState.OPEN:
        raise ProblemError(409, f"proposal {found.id} is decided already: {found.state} by {found.decided_by}.")
    return found


def _encoded(run: RunRecord, done: Proposal) -> bytes:
    """The field's value with `done` in the place of the proposal of its id, and as many decided ones as are kept."""
    others = [each for each in _known(run) if each.id != done.id]
    still_open = [each for each in others if each.state is ProposalState.OPEN]
    return encode_json([*still_open, done, *others[len(still_open) :][: _DECIDED_SHOWN - 1]])


def _event(run: RunRecord, proposal: Proposal, message: str, time: float) -> bytes:
    why = f": {proposal.reason}" if proposal.reason else ""
    value = None if proposal.made is None else float(proposal.made)
    return encode_json(new_event(EventKind.PROPOSAL, run.step, time, f"{message}{why}"[:_MAX_REASON], value))


def _shown(proposal: Proposal) -> str:
    shown = {name: "off" if value is None else encode_json(value).decode() for name, value in proposal.settings.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
