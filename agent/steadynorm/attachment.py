"""`attach()` joins a model's optimizers to a server: measured, stabilized, recorded, and changed live."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch.optim import Optimizer

from steadynorm import arguments, lifecycle
from steadynorm.agent import Agent
from steadynorm.arguments import Arguments
from steadynorm.distributed.ranks import attach_together
from steadynorm_contract.settings import Mode, Transfer

__all__ = ["attach"]

BUFFER_BYTES = 64 * 1024 * 1024


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
    """Measure and stabilize the gradients of `optimizer` at each of its steps, and tell the server.

    run: a name for people; None: `$STEADYNORM_RUN`, else the program's name.
    server: address such as http://127.0.0.1:8470; None: `$STEADYNORM_SERVER`, else the agent works locally.
    token: None: `$STEADYNORM_TOKEN`, else, on loopback, the user's own server's.
    mode, gamma1, gamma2, eps, spike_limit, transfer: settings to begin with, see `Settings`.
    preset: "paper" or "robust", see `steadynorm.PRESETS`: for those of the settings that are left as they are here.
    observe_steps: steps that are only observed before `stabilize` is entered by bumpless transfer; None: 0, or 100
        when the optimizer has state from an earlier run and no state of the agent comes with it.
    allow: the only settings that may ever be changed from outside; None: all.
    tags: shown with the run. detail_every: steps between per-parameter rows. buffer_bytes: what may wait unsent.
    exchange_every: steps between two exchanges of the ranks; a change takes effect one to two such times later.

    Where torch.distributed is initialized every rank must call this, with the same arguments, and close the agent after
    the same step. Rank 0 alone talks to the server.

    Parameters that come later (`add_param_group`, unfreezing) are stabilized from their first step on, and are in
    checkpoints and `statistics()`, but not in what is recorded: a run's table of parameters is made here.

    Returns at once: an unreachable server costs one warning, and data is kept for it. Raises TypeError, ValueError or
    SettingsError for a wrong argument, RuntimeError for an optimizer that is attached already.
    """

    def check() -> Arguments:
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
        for each in given.optimizers:
            other = lifecycle.agent_of(each)
            if other is not None:
                raise RuntimeError(
                    f"this {type(each).__name__} is attached already, to run {other.run_id}. "
                    "Use that agent, or close it first: agent.close()."
                )
        return given

    return Agent(*attach_together(check))
