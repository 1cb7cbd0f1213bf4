"""benchmarks/faults decoder in short: random changes of true messages in place of ten minutes of atheris."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steadynorm_contract.codec import MalformedMessage, decode_batch


@pytest.fixture
def decoder_fuzz(root: Path) -> Iterator[Any]:
    """benchmarks/faults/decoder_fuzz.py"""
    sys.path.insert(0, str(root / "benchmarks" / "faults"))
    import decoder_fuzz

    yield decoder_fuzz
    sys.path.remove(str(root / "benchmarks" / "faults"))


def test_any_change_of_a_message_is_one_or_a_known_error(decoder_fuzz: Any) -> None:
    chance, refused = random.Random(7), 0
    for _ in range(3000):
        changed = bytearray(chance.choice(decoder_fuzz.seeds()))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(changed))
            changed[at : at + chance.choice((0, 1, 1, 8))] = chance.randbytes(chance.choice((0, 1, 1, 4)))
        decoder_fuzz.decode_anything(bytes(changed))
        try:
            decode_batch(bytes(changed))
        except MalformedMessage:
            refused += 1
    assert 1500 < refused < 3000  # so some were none, and the others reached what is behind the decoder
