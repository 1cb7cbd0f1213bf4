"""How many runs an agent's token may have in Redis, and how much memory they may take together.

Asked when a new run registers. One that is there goes on, and may come back: no training loses telemetry to a quota.
"""

from redis.exceptions import RedisError

from steadynorm_contract.tokens import Quota
from steadynorm_contract.words import counted
from steadynorm_server.auth.principals import Principal
from steadynorm_server.errors import ProblemError
from steadynorm_server.redis.keys import quota_key
from steadynorm_server.runs.repository import RunRepository

_MIB = 2**20
_RESERVED_S = 60.0
"""A run that was let in and is not there after so long was not registered, or was deleted."""


async def usage(repository: RunRepository, sender: Principal) -> Quota | None:
    """What the sender's quota is and how much of it is used; None where it has none."""
    if sender.max_runs is None and sender.max_mib is None:
        return None
    try:
        scores = await repository.redis.index_scores(quota_key(sender.name))
        runs = await repository.get_many(list(scores))
    except (RedisError, OSError):
        return Quota(sender.max_runs, sender.max_mib, None, None)
    return Quota(sender.max_runs, sender.max_mib, len(runs), sum(run.redis_bytes for run in runs) / _MIB)


async def admit(repository: RunRepository, sender: Principal, run_id: str) -> None:
    """Count the run to its token's before it is registered. Raises a 403 problem where they are as many as it may have.

    Who comes first is in: of several that register at once, no more than there is room for.
    """
    if sender.max_runs is None and sender.max_mib is None:
        return
    redis, key, now = repository.redis, quota_key(sender.name), repository.clock()
    scores = await redis.index_scores(key)
    runs = {run.run_id: run for run in await repository.get_many([run_id, *scores])}
    if run_id in runs:
        await redis.script("reserve", [key], run_id, now, "")
        return
    gone = [(each, since) for each, since in scores.items() if each not in runs and now - since > _RESERVED_S]
    used = sum(run.redis_bytes for run in runs.values())
    if sender.max_mib is not None and used >= sender.max_mib * _MIB:
        what = f"runs of {used / _MIB:.1f} MiB, and may have {sender.max_mib:g} MiB"
    else:
        most = "" if sender.max_runs is None else sender.max_runs
        stale = [part for each, since in gone for part in (each, since)]
        has_place, count = await redis.script("reserve", [key], run_id, now, most, *stale)
        if has_place:
            return
        what = f"{counted(count, 'run')}, and may have {sender.max_runs}"
    raise ProblemError(
        403,
        f"token {sender.name!r} has {what}. Delete some (`steadynorm delete`), or ask for a larger quota.",
        title="Quota",
    )
