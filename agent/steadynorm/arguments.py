"""attach()'s arguments, validated and completed from the environment."""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.optim import Optimizer
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from steadynorm_contract.settings import SETTING_RULES, Settings, merge
from steadynorm_contract.telemetry import MAX_NAME_LENGTH

MIN_BUFFER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """attach()'s arguments after validation."""

    model: torch.nn.Module
    optimizers: list[Optimizer]
    settings: Settings
    run: str
    run_is_given: bool  # in the call, rather than from the environment or the program's name
    server: str | None
    token: str | None
    observe_steps: int | None
    allow: tuple[str, ...] | None
    tags: dict[str, str]
    detail_every: int
    buffer_bytes: int
    exchange_every: int
    run_id: str


def check(
    model: object,
    optimizer: object,
    *,
    preset: str | None,
    settings: Mapping[str, object],
    run: str | None,
    server: str | None,
    token: str | None,
    observe_steps: int | None,
    allow: Collection[str] | None,
    tags: Mapping[str, str] | None,
    detail_every: int,
    buffer_bytes: int,
    exchange_every: int,
) -> Arguments:
    """Raises TypeError, ValueError or SettingsError for the first one that is invalid."""
    name = _run_name(run)
    return Arguments(
        model=_model(model),
        optimizers=_optimizers(optimizer),
        settings=_settings(preset, settings),
        run=name,
        run_id=new_run_id(name),
        run_is_given=run is not None,
        server=_server(server),
        token=_token(token),
        observe_steps=None if observe_steps is None else _whole_number("observe_steps", observe_steps, 0),
        allow=_allow(allow),
        tags=_tags(tags),
        detail_every=_whole_number("detail_every", detail_every, 1),
        buffer_bytes=_whole_number("buffer_bytes", buffer_bytes, MIN_BUFFER_BYTES),
        exchange_every=_whole_number("exchange_every", exchange_every, 1),
    )


def _settings(preset: str | None, given: Mapping[str, object]) -> Settings:
    """`given` is complete: values that differ from the defaults were chosen, and take precedence over the preset."""
    if preset is None:
        return merge(Settings(), given)
    defaults = Settings()
    chosen = {name: value for name, value in given.items() if value != getattr(defaults, name)}
    return merge(defaults, {"preset": preset, **chosen})


def _model(model: object) -> torch.nn.Module:
    """TypeError unless `model` is a module."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module: got {type(model).__name__}. "
            "Pass the module whose parameters the optimizer updates: attach(model, optimizer)."
        )
    return model


def _optimizers(optimizers: object) -> list[Optimizer]:
    """One optimizer, or several, as a list. TypeError or ValueError."""
    one = isinstance(optimizers, Optimizer) or not isinstance(optimizers, Iterable)
    several: Iterable[object] = [optimizers] if one else optimizers  # type: ignore[assignment]  # `one` says so
    listed: list[Optimizer] = []
    for given in several:
        optimizer = given
        # A wrapper that is an optimizer by type, as Accelerate's: the one inside does the stepping.
        while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
            optimizer = inner
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer or a list of them: got {type(optimizer).__name__}. "
                "Pass the optimizer itself, not a wrapper such as a scheduler, a scaler or a strategy."
            )
        listed.append(optimizer)
    if not listed:
        raise ValueError("optimizer must be at least one optimizer: got an empty list")
    if len({id(optimizer) for optimizer in listed}) != len(listed):
        raise ValueError("each optimizer must be given once: got one twice. Remove the duplicate.")
    return listed


def _server(server: str | None) -> str | None:
    """The address, from `$STEADYNORM_SERVER` if None, without a trailing slash; None if there is none."""
    given = server if server is not None else os.environ.get("STEADYNORM_SERVER") or None
    if given is None:
        return None
    if not isinstance(given, str):
        raise TypeError(f"server must be a string: got {type(given).__name__}. Use one such as http://127.0.0.1:8470.")
    try:
        url = parse_url(given)
    except LocationParseError:
        url = None
    if url is None or url.scheme not in ("http", "https") or not url.host or url.query or url.fragment or url.auth:
        raise ValueError(
            f"server must be an address such as http://127.0.0.1:8470: got {given!r}. "
            "Use a scheme (http or https), a host and a port, without credentials or a query."
        )
    return given.rstrip("/")


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
    return name.strip()


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
    unknown = [name for name in allow if name not in SETTING_RULES]
    if unknown:
        known = ", ".join(SETTING_RULES)
        raise ValueError(f"allow must name settings: got {', '.join(map(repr, unknown))}. Known: {known}.")
    return tuple(allow)


def _tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    """A dictionary of strings. TypeError."""
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        raise TypeError(f"tags must be a dictionary: got {type(tags).__name__}. Use tags={{'dataset': 'wiki'}}.")
    for key, value in tags.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"tags must map strings to strings: got {key!r}: {value!r}. Use str().")
    return dict(tags)


def _whole_number(name: str, value: object, least: int) -> int:
    """A whole number of at least `least`. TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number: got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}: got {value}.")
    return value
