"""`attach()` connects a model's optimizers to a server, and keeps track of which optimizer has which agent.

Agents that nobody closes are closed at exit; in a forked child they become inert.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Collection, Mapping, Sequence

import torch
from torch.optim import Optimizer

from steadynorm import arguments
from steadynorm.agent import Agent
from steadynorm.distributed.ranks import agree_on_arguments, open_exchange
from steadynorm.lifecycle import end_state_at_exit
from steadynorm_contract.settings import Mode, Transfer

BUFFER_BYTES = 64 * 1024 * 1024

_agents: weakref.WeakSet[Agent] = weakref.WeakSet()
_attached: weakref.WeakKeyDictionary[Optimizer, weakref.ref[Agent]] = weakref.WeakKeyDictionary()


def attach(
    model: torch.nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    run: str | None = None,
    server: str | None = None,
    token: str | None = None,
    preset: str | None = None,
    mode: Mode | str = Mode.STABILIZE,
    gamma1: float = 0.6,
    gamma2: float = 0.999,
    eps: float = 1e-12,
    spike_limit: float | None = None,
    transfer: Transfer | str = Transfer.BUMPLESS,
    observe_steps: int | None = None,
    allow: Collection[str] | None = None,
    tags: Mapping[str, str] | None = None,
    detail_every: int = 10,
    buffer_bytes: int = BUFFER_BYTES,
    exchange_every: int = 10,
) -> Agent:
    """Measure and stabilize the gradients of `optimizer` at each of its steps, and report them to the server.

    Returns without waiting for the server: an unreachable one costs one warning, and data is buffered for it.

    Where torch.distributed is initialized every rank must call this, with the same arguments, and close the agent after
    the same step. Only rank 0 talks to the server.

    Parameters added later (`add_param_group`, unfreezing) are stabilized from their first step on and belong to
    checkpoints and `statistics()`, but they are not recorded: a run's table of parameters is fixed here.

    Args:
        model: The module whose parameters the optimizer updates; it gives them their names.
        optimizer: One `torch.optim.Optimizer`, or several that step one after the other.
        run: Display name of the run. None: `$STEADYNORM_RUN`, else the program's name.
        server: Address such as `http://127.0.0.1:8470`. None: `$STEADYNORM_SERVER`, else the run is stabilized locally
            and not recorded.
        token: API token. None: `$STEADYNORM_TOKEN`, else, on loopback, the token of the user's own server.
        preset: `"paper"` or `"robust"`, see `steadynorm.PRESETS`: replaces the settings left at their defaults here.
        mode: `off`, `observe` or `stabilize`, to begin with.
        gamma1: Decay of the first moment of the gradient norm, in [0, 1).
        gamma2: Decay of the second moment of the gradient norm, in [0, 1).
        eps: Added to the root of the second moment; positive.
        spike_limit: Largest norm that enters the statistics, in multiples of the root mean square norm. None: no limit.
        transfer: `bumpless` carries the output scale over a change of mode; `plain` does not.
        observe_steps: Steps that are only observed before `stabilize` is entered by bumpless transfer. None: 0, or 100
            when the optimizer has state from an earlier run and no agent state is loaded with it.
        allow: Names of the only settings that may be changed remotely. None: all.
        tags: Shown with the run.
        detail_every: Steps between two records of per-parameter rows.
        buffer_bytes: Bound on the memory of unsent records, in bytes.
        exchange_every: Steps between two exchanges of the ranks; a change of settings takes effect one to two such
            intervals later.

    Returns:
        The agent. The optimizers hold it, so it lives as long as they do.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has an invalid value (`SettingsError` for a setting), or ranks pass different ones.
        RuntimeError: An optimizer already has an agent.
    """
    exchange = open_exchange()
    try:
        given = arguments.check(
            model,
            optimizer,
            preset=preset,
            settings={
                "mode": mode,
                "gamma1": gamma1,
                "gamma2": gamma2,
                "eps": eps,
                "spike_limit": spike_limit,
                "transfer": transfer,
            },
            run=run,
            server=server,
            token=token,
            observe_steps=observe_steps,
            allow=allow,
            tags=tags,
            detail_every=detail_every,
            buffer_bytes=buffer_bytes,
            exchange_every=exchange_every,
        )
        _check_unattached(given.optimizers)
    except Exception as error:
        if exchange is not None:
            exchange.gather(repr(error))  # the other ranks raise too
        raise
    if exchange is not None:
        given = agree_on_arguments(exchange, given)
    agent = Agent(given, exchange)
    _agents.add(agent)
    for each in given.optimizers:
        _attached[each] = weakref.ref(agent)
    return agent


def _check_unattached(optimizers: Sequence[Optimizer]) -> None:
    for optimizer in optimizers:
        agent = _attached[optimizer]() if optimizer in _attached else None
        if agent is not None and not agent.closed:
            raise RuntimeError(
                f"this {type(optimizer).__name__} is already attached, to run {agent.run_id}. "
                "Use that agent, or close it first: agent.close()."
            )


def _close_all() -> None:
    state, reason = end_state_at_exit()
    for agent in list(_agents):
        agent.close(state=state, reason=reason)


def _make_inert_after_fork() -> None:
    for agent in list(_agents):
        agent._make_inert()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_make_inert_after_fork)
