"""`attach(config=...)`, as it is sent: as JSON takes it, without what may be a secret by its name."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Mapping

from steadynorm.lifecycle import readable
from steadynorm_contract.codec import encodable, encode_json
from steadynorm_contract.configuration import HIDDEN, MAX_CONFIG_BYTES, MAX_CONFIG_DEPTH, is_secret

_URL_USER = re.compile(r"(?<=://)[^/@\s]*@")
_SIMPLE = (str, int, bool, type(None))


def clean_config(config: object) -> dict[str, object]:
    """`attach(config=...)` as JSON takes it; secrets by their names are hidden. Raises TypeError or ValueError."""
    cleaned = _cleaned(config, 0)
    if not isinstance(cleaned, dict):
        raise TypeError(
            f"config must be a dictionary, a dataclass or a Namespace: got {type(config).__name__}. "
            "Pass config={'lr': 0.001, 'model': {'layers': 12}}."
        )
    size = len(encode_json(cleaned))
    if size > MAX_CONFIG_BYTES:
        raise ValueError(
            f"config must take at most {MAX_CONFIG_BYTES} bytes as JSON: got {size}. Leave out what is data "
            "rather than a choice."
        )
    return cleaned


def _cleaned(value: object, depth: int) -> object:
    if depth > MAX_CONFIG_DEPTH:
        raise ValueError(
            f"config must be nested at most {MAX_CONFIG_DEPTH} deep: got more, or a value that holds itself."
        )
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {
            encodable(readable(name)): HIDDEN if is_secret(readable(name)) and inner else _cleaned(inner, depth + 1)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_cleaned(inner, depth + 1) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if type(value) in _SIMPLE and not (isinstance(value, int) and abs(value) >= 2**53):
        return without_passwords(value) if isinstance(value, str) else value
    return without_passwords(readable(value))


def without_passwords(text: str) -> str:
    """The text, with names and passwords in URLs hidden, as every encoder takes it."""
    return encodable(_URL_USER.sub(f"{HIDDEN}@", text))
