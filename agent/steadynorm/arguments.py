"""attach()'s arguments, validated and completed from the environment."""

from __future__ import annotations

import logging
import os
import re
import secrets
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.optim import Optimizer

from steadynorm.recovery_options import Recovery
from steadynorm.remarks import compares_gradients
from steadynorm.run_config import clean_config
from steadynorm.sinks.base import Sink
from steadynorm.sinks.choose import choose_sinks
from steadynorm_contract.codec import encodable
from steadynorm_contract.discovery import check_address, own_server
from steadynorm_contract.knobs import ALL_KNOBS, KNOB_PREFIX, is_knob, knob_name_problem
from steadynorm_contract.settings import SETTING_RULES, Mode, RecoveryMode, Settings, merge
from steadynorm_contract.telemetry import MAX_NAME_LENGTH, MAX_TAG_NAME_LENGTH, MAX_TAGS, MAX_TEXT_LENGTH

MIN_BUFFER_BYTES = 1024 * 1024
JOB_TAGS = 2  # which the scheduler's environment may add

_INNER_NAMES = ("original_optimizer", "base_optimizer", "_base_optimizer", "base", "optim", "_optimizer")

_log = logging.getLogger("steadynorm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """attach()'s arguments after validation."""

    model: torch.nn.Module
    optimizers: list[Optimizer]
    settings: Settings
    run: str
    run_is_given: bool  # in the call, rather than from the environment or the program's name
    server: str | None
    server_is_found: bool  # it is the user's own, and nobody named it
    token: str | None
    observe_steps: int | None
    allow: tuple[str, ...] | None
    tags: dict[str, str]
    buffer_bytes: int
    exchange_every: int
    run_id: str
    mode_is_given: bool  # rather than chosen for the optimizers
    recovery: Recovery | None = None
    config: dict[str, object] = field(default_factory=dict)
    record_environment: bool = True
    sinks: tuple[Sink, ...] = ()


def check(
    model: object,
    optimizer: object,
    *,
    settings: Mapping[str, object],
    run: str | None,
    server: str | None,
    token: str | None,
    observe_steps: int | None,
    allow: Collection[str] | None,
    tags: Mapping[str, str] | None,
    buffer_bytes: int,
    exchange_every: int,
    recovery: object = None,
    config: object = None,
    record_environment: bool = True,
    sinks: object = None,
) -> Arguments:
    """Raises TypeError, ValueError or SettingsError for the first one that is invalid.

    settings: complete, but for a mode that may be None: then it is chosen for the optimizers.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "attach() must be called outside of torch.inference_mode(): got a call within it. Tensors that are made "
            "there cannot be changed later. Leave the block first; torch.no_grad() is fine."
        )
    name = _run_name(run)
    optimizers = _optimizers(optimizer)
    mode_is_given = settings["mode"] is not None
    if not mode_is_given:
        settings = {**settings, "mode": _suitable_mode(optimizers)}
    address = _server(server)
    own = own_server() if address is None else None
    return Arguments(
        model=_model(model),
        optimizers=optimizers,
        mode_is_given=mode_is_given,
        settings=_with_recovery(merge(Settings(), settings), recovery),
        recovery=recovery if isinstance(recovery, Recovery) else None,
        run=name,
        run_id=new_run_id(name),
        run_is_given=run is not None,
        server=own.server if own is not None else address or None,
        server_is_found=own is not None,
        token=_token(token),
        observe_steps=None if observe_steps is None else _whole_number("observe_steps", observe_steps, 0),
        allow=_allow(allow),
        tags=_tags(tags),
        config={} if config is None else clean_config(config),
        record_environment=bool(record_environment),
        sinks=choose_sinks(sinks),
        buffer_bytes=_whole_number("buffer_bytes", buffer_bytes, MIN_BUFFER_BYTES),
        exchange_every=_whole_number("exchange_every", exchange_every, 1),
    )


def _with_recovery(settings: Settings, recovery: object) -> Settings:
    if recovery is None:
        return settings
    if not isinstance(recovery, Recovery):
        raise TypeError(
            f"recovery must be a steadynorm.Recovery: got {type(recovery).__name__}. "
            "Use recovery=steadynorm.Recovery(every_steps=100)."
        )
    return merge(settings, {"recovery": RecoveryMode(recovery.mode).value})


def _model(model: object) -> torch.nn.Module:
    """TypeError unless `model` is a module."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module: got {type(model).__name__}. "
            "Pass the module whose parameters the optimizer updates: attach(model, optimizer)."
        )
    return model


def _suitable_mode(optimizers: Sequence[Optimizer]) -> Mode:
    """`observe` where an optimizer compares gradients of several steps, with a warning; else `stabilize`."""
    comparing = [type(optimizer).__name__ for optimizer in optimizers if compares_gradients(optimizer)]
    if not comparing:
        return Mode.STABILIZE
    _log.warning(
        "%s keeps gradients between steps and evaluates its closure several times, and a tensor's scale differs from "
        "step to step: stabilized, it may diverge. So this run is attached in observe; mode='stabilize' stabilizes it.",
        comparing[0],
    )
    return Mode.OBSERVE


def _optimizers(optimizers: object) -> list[Optimizer]:
    """One optimizer, or several, as a list. TypeError or ValueError."""
    listed = unwrap_optimizers(optimizers)
    if not listed:
        raise ValueError("optimizer must be at least one optimizer: got an empty list")
    if len({id(optimizer) for optimizer in listed}) != len(listed):
        raise ValueError("each optimizer must be given once: got one twice. Remove the duplicate.")
    for optimizer in listed:
        _check_steps(optimizer, listed)
    return listed


def unwrap_optimizers(given: object) -> list[Optimizer]:
    """The optimizers that step: those of a list or a container, and the one inside of a wrapper. TypeError."""
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping):
        inner = list(given)
        # A container may be an optimizer by type, as torchtitan's; it has no step of its own.
        if not isinstance(given, Optimizer) or (inner and all(isinstance(each, Optimizer) for each in inner)):
            return [optimizer for each in inner for optimizer in unwrap_optimizers(each)]
    if isinstance(inside := getattr(given, "optimizer", None), Optimizer):  # as Accelerate's: that one steps
        return unwrap_optimizers(inside)
    if not isinstance(given, Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer or a list of them: got {_full_name(given)}. {_instead(given)}"
        )
    return [given]


def _full_name(value: object) -> str:
    """Of its type, with the module: other libraries have an Adam of their own."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _instead(given: object) -> str:
    """What to pass in place of something that is no optimizer of torch."""
    held = [name for name, value in getattr(given, "__dict__", {}).items() if isinstance(value, Optimizer)]
    if name := _inner_name(given) or next(iter(held), ""):
        return f"Pass the one inside of it, which steps: attach(model, optimizer.{name})."
    advice = "Pass the optimizer itself, not a wrapper such as a scheduler, a scaler or a strategy."
    if isinstance(given, type) or not any(hasattr(given, name) for name in ("step", "apply_gradients")):
        return advice
    return (
        f"{advice} One of another library does not call the hooks of torch.optim, so its steps cannot be measured: use "
        "an optimizer of torch.optim."
    )


def _inner_name(wrapper: object) -> str:
    """Name of the attribute that holds the optimizer which `wrapper` steps; empty if there is none."""
    for name in _INNER_NAMES:
        if isinstance(getattr(wrapper, name, None), Optimizer):
            return name
    return ""


def _other_inner_name(optimizer: Optimizer, listed: Sequence[Optimizer]) -> str:
    """The same under any name, if it has the same parameters. Others that it may step, for other parameters, are told.

    Muon's, for example, may hold an AdamW for what is no matrix.
    """
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, inner in vars(optimizer).items():
        if not isinstance(inner, Optimizer) or any(inner is each for each in listed):
            continue
        held = [id(parameter) for group in inner.param_groups for parameter in group["params"]]
        if not own.isdisjoint(held):
            return name
        _log.warning(
            "%s holds a %s with %d other tensors, in its attribute %s: if it steps that, pass both, "
            "attach(model, [optimizer, optimizer.%s]). Those tensors are not measured or stabilized otherwise.",
            *(type(optimizer).__name__, type(inner).__name__, len(held), name, name),
        )
    return ""


def _check_steps(optimizer: Optimizer, listed: Sequence[Optimizer]) -> None:
    """TypeError for a wrapper that steps the optimizer inside of it: its own hooks may never be called."""
    kind, name = type(optimizer), _inner_name(optimizer)
    try:
        optimizer.register_step_pre_hook(lambda *_: None).remove()
    except AttributeError:
        advice = f"Attach the one inside: attach(model, optimizer.{name})." if name else "Call it in its __init__."
        raise TypeError(
            f"optimizer must have step hooks: got a {kind.__name__} that never called Optimizer.__init__(). {advice}"
        ) from None
    if not name:
        name = _other_inner_name(optimizer, listed)
    # torch's own, such as ZeroRedundancyOptimizer, do call their hooks, and see all the parameters.
    if name and not kind.__module__.startswith("torch."):
        raise TypeError(
            f"optimizer must be the one that steps: got a {kind.__name__}, which steps its {name}. Pass that: "
            f"attach(model, optimizer.{name})."
        )


def _server(server: str | None) -> str | None:
    """The address, from `$STEADYNORM_SERVER` if None, without a trailing slash. Empty: none; None: not given."""
    given = server if server is not None else os.environ.get("STEADYNORM_SERVER")
    if given is None or given == "":
        return given
    if not isinstance(given, str):
        raise TypeError(f"server must be a string: got {type(given).__name__}. Use one such as http://127.0.0.1:8470.")
    return check_address(given)


def _token(token: str | None) -> str | None:
    """The token, from `$STEADYNORM_TOKEN` if None. None: the client looks for that of the user's own server."""
    found = token if token is not None else os.environ.get("STEADYNORM_TOKEN") or None
    if found is not None and not (isinstance(found, str) and re.fullmatch(r"[!-~]+", found)):
        raise ValueError("token must be printable ASCII without spaces: got other characters. Copy it again.")
    return found


def _run_name(run: str | None) -> str:
    """The run's name, from `$STEADYNORM_RUN` if None, else the name of the program."""
    name = run if run is not None else os.environ.get("STEADYNORM_RUN") or Path(sys.argv[0] or "run").stem or "run"
    if not isinstance(name, str):
        raise TypeError(f"run must be a string: got {type(name).__name__}. Use a name such as 'gpt-small'.")
    if not 0 < len(name.strip()) <= MAX_NAME_LENGTH:
        raise ValueError(f"run must have 1 to {MAX_NAME_LENGTH} characters: got {len(name)}. Use a shorter name.")
    return encodable(name.strip())


def new_run_id(name: str) -> str:
    """An identifier for URLs and keys, with eight random hexadecimal digits; needs no server."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48].strip("-")
    return f"{slug or 'run'}-{secrets.token_hex(4)}"


def _allow(allow: Collection[str] | None) -> tuple[str, ...] | None:
    """Names of settings. TypeError or ValueError."""
    if allow is None:
        return None
    if isinstance(allow, str) or not isinstance(allow, Collection):
        raise TypeError(f"allow must be a list of settings: got {allow!r}. Use allow=('gamma1', 'gamma2', 'mode').")
    unknown = [name for name in allow if name not in SETTING_RULES and not _names_knobs(name)]
    if unknown:
        known = ", ".join([*SETTING_RULES, "knob.NAME", ALL_KNOBS])
        raise ValueError(f"allow must name settings: got {', '.join(map(repr, unknown))}. Known: {known}.")
    return tuple(allow)


def _names_knobs(name: object) -> bool:
    return name == ALL_KNOBS or (is_knob(name) and knob_name_problem(str(name).removeprefix(KNOB_PREFIX)) is None)


def _tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    """A dictionary of strings. TypeError."""
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        raise TypeError(f"tags must be a dictionary: got {type(tags).__name__}. Use tags={{'dataset': 'wiki'}}.")
    for key, value in tags.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"tags must map strings to strings: got {key!r}: {value!r}. Use str().")
        if len(key) > MAX_TAG_NAME_LENGTH or len(value) > MAX_TEXT_LENGTH:
            raise ValueError(
                f"tags must have names of at most {MAX_TAG_NAME_LENGTH} characters and values of at most "
                f"{MAX_TEXT_LENGTH}: got {key[:40]!r} of {len(key)} with a value of {len(value)}. Shorten it."
            )
    if len(tags) > MAX_TAGS - JOB_TAGS:
        raise ValueError(f"tags must be at most {MAX_TAGS - JOB_TAGS}: got {len(tags)}. Leave some out.")
    return {encodable(key): encodable(value) for key, value in tags.items()}


def _whole_number(name: str, value: object, least: int) -> int:
    """A whole number of at least `least`. TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number: got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}: got {value}.")
    return value
