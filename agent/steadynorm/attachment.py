"""`attach()` connects a model's optimizers to a server, and keeps track of which optimizer has which agent.

Agents that nobody closes are closed at exit; in a forked child they become inert.
"""

from __future__ import annotations

import atexit
import functools
import os
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ParamSpec

import torch
from torch.optim import Optimizer

from steadynorm import arguments
from steadynorm.agent import Agent
from steadynorm.distributed.foreign_shards import check_shards
from steadynorm.distributed.ranks import agree_on_arguments, open_exchange, ranks_with_other_parameters
from steadynorm.lifecycle import end_state_at_exit, readable, run_all
from steadynorm.parameters import assign
from steadynorm.recovery.memory import check_memory, needed_bytes
from steadynorm.recovery_options import Recovery
from steadynorm.sinks.base import Sink
from steadynorm.transport.abandoned import forget_abandoned, wait_for_abandoned
from steadynorm_contract.changes import expand
from steadynorm_contract.settings import Mode, Transfer

BUFFER_BYTES = 64 * 1024 * 1024

_P = ParamSpec("_P")

_agents: weakref.WeakSet[Agent] = weakref.WeakSet()
_attached: weakref.WeakKeyDictionary[Optimizer, weakref.ref[Agent]] = weakref.WeakKeyDictionary()


def _with_preset(function: Callable[_P, Agent]) -> Callable[_P, Agent]:
    """A preset's settings in place of those that a call leaves out; what it names itself takes precedence.

    Outside of the function, which cannot tell a value that was given from a default that equals it.
    """

    @functools.wraps(function)
    def with_preset(*args: _P.args, **kwargs: _P.kwargs) -> Agent:
        return function(*args, **expand(kwargs))  # type: ignore[arg-type]  # names of the function's own arguments

    return with_preset


@_with_preset
def attach(
    model: torch.nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    run: str | None = None,
    server: str | None = None,
    token: str | None = None,
    preset: str | None = None,
    mode: Mode | str | None = None,
    gamma1: float = 0.6,
    gamma2: float = 0.999,
    eps: float = 1e-12,
    spike_limit: float | None = 3.0,
    spike_fade: bool = True,
    transfer: Transfer | str = Transfer.BUMPLESS,
    clip_norm: float | str = 1.0,
    observe_steps: int | None = None,
    allow: Collection[str] | None = None,
    tags: Mapping[str, str] | None = None,
    config: Any = None,
    record_environment: bool = True,
    detail_every: int = 10,
    buffer_bytes: int = BUFFER_BYTES,
    exchange_every: int = 10,
    recovery: Recovery | None = None,
    sinks: Collection[str | Sink] = (),
) -> Agent:
    """Measure and stabilize the gradients of `optimizer` at each of its steps, and report them to the server.

    Returns without waiting for the server: an unreachable one costs one warning, and data is buffered for it.

    Where torch.distributed is initialized every rank must call this, with the same arguments, and close the agent after
    the same step. Only rank 0 talks to the server.

    Parameters added later (`add_param_group`, unfreezing, an exchange) are stabilized from their first step on and
    belong to checkpoints and `statistics()`, but they are not recorded: a run's table of parameters is fixed here.
    Those that leave the optimizer are let go of.

    Steps without any gradient before the first one that has some, which libraries take to make the optimizer's state,
    are not counted. Neither are those that have zeros only and a learning rate of zero.

    Args:
        model: The module whose parameters the optimizer updates; it gives them their names.
        optimizer: One `torch.optim.Optimizer`, or several that step one after the other. A container of optimizers
            stands for those in it.
        run: Display name of the run. None: `$STEADYNORM_RUN`, else the program's name.
        server: Address such as `http://127.0.0.1:8470`. None: `$STEADYNORM_SERVER`, else this user's own server, where
            one runs on the machine of rank 0. Empty, here or there: the run is stabilized and not recorded.
        token: API token. None: `$STEADYNORM_TOKEN`, else, on loopback, the token of the user's own server.
        preset: `"robust"`, which the defaults here are, or `"paper"`, the paper's bare rule, see `steadynorm.PRESETS`:
            stands for those of its settings that the call leaves out.
        mode: `off`, `observe`, `clip` or `stabilize`, to begin with. None: `stabilize`; but `observe`, with a warning,
            for an optimizer that keeps gradients between steps and evaluates its closure several times, as LBFGS does.
        gamma1: Decay of the first moment of the gradient norm, in [0, 1).
        gamma2: Decay of the second moment of the gradient norm, in [0, 1).
        eps: Added to the root of the second moment; positive.
        spike_limit: Largest norm that enters the statistics, in multiples of the root mean square norm. None: no limit,
            and nothing fades.
        spike_fade: Whether a step above spike_limit also counts less, by the square of how far it is above.
        transfer: `bumpless` carries the output scale over a change of mode; `plain` does not.
        clip_norm: In mode `clip`, the largest total norm of all gradients; or `auto`, ZClip's limit.
        observe_steps: Steps that are only observed before `stabilize` is entered by bumpless transfer. None: 0, or 100,
            which the log tells, when the optimizer has moments from an earlier run and no agent state is loaded.
        allow: Names of the only settings that may be changed remotely, `knob.NAME` or `knob.*` for knobs. None: all.
        tags: Shown with the run.
        config: What the run is made of, shown, searched and compared: a nested dictionary, a dataclass or a Namespace,
            at most 64 KiB as JSON. Values whose names look like those of passwords, keys and tokens are hidden.
        record_environment: Whether the server is told the commit and whether files differ from it, the command line,
            the devices, versions of libraries, and the scheduler's variables (`run_environment.VARIABLES`).
        detail_every: Steps between two records of per-parameter rows, 1 to 1,000. A setting like the others.
        buffer_bytes: Bound on the memory of unsent records, in bytes.
        exchange_every: Steps between two exchanges of the ranks; a change of settings takes effect one to two such
            intervals later.
        recovery: Keep snapshots and roll back to one when the run breaks, see `Recovery`. None: neither.
        sinks: Where else the numbers and events go, from rank 0: `wandb`, `tensorboard`, `mlflow`, `trackio`, objects
            of `steadynorm.sinks` with options, or anything with `write(step, scalars)`. No step waits for one.

    Returns:
        The agent. The optimizers hold it, so it lives as long as they do.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has an invalid value (`SettingsError` for a setting), or ranks pass different ones.
        RuntimeError: An optimizer already has an agent.
        ModuleNotFoundError: A sink's tool is not installed.
    """
    exchange = open_exchange()
    others: list[int] = []
    try:
        if isinstance(model, torch.nn.Module):
            check_shards(model, optimizer)  # first: it knows why such an optimizer looks like none
        given = arguments.check(
            model,
            optimizer,
            settings={
                **({} if preset is None else {"preset": preset}),  # none that there is: those were replaced
                "mode": mode,
                "gamma1": gamma1,
                "gamma2": gamma2,
                "eps": eps,
                "spike_limit": spike_limit,
                "spike_fade": spike_fade,
                "transfer": transfer,
                "clip_norm": clip_norm,
                "detail_every": detail_every,
            },
            run=run,
            server=server,
            token=token,
            observe_steps=observe_steps,
            allow=allow,
            tags=tags,
            config=config,
            record_environment=record_environment,
            buffer_bytes=buffer_bytes,
            exchange_every=exchange_every,
            recovery=recovery,
            sinks=sinks,
        )
        _check_unattached(given.optimizers)
        assigned = assign(given.model, given.optimizers)
        needed = 0
        if recovery is not None:
            recovery.check_schedulers(given.optimizers)
            needed = needed_bytes(recovery, given.model, given.optimizers)
    except Exception as error:
        if exchange is not None:
            exchange.gather(readable(error, repr))  # the other ranks raise too
        raise
    if exchange is not None:
        given = agree_on_arguments(exchange, given)
        others = ranks_with_other_parameters(exchange, [pair for pairs in assigned for pair in pairs])
    if recovery is not None:
        check_memory(recovery, needed, None if exchange is None else exchange.gather)
    agent = Agent(given, assigned, exchange, others)
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
    run_all([*(functools.partial(agent.close, state=state, reason=reason) for agent in _agents), wait_for_abandoned])


def _make_inert_after_fork() -> None:
    forget_abandoned()
    for agent in list(_agents):
        agent._make_inert()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_make_inert_after_fork)
