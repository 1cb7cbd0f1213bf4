"""Plurals."""

import pytest

from steadynorm_contract.words import counted


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 entries were"), (1, "1 entry was"), (2, "2 entries were"), (1234, "1,234 entries were")]
)
def test_a_number_has_the_word_that_goes_with_it(number: int, said: str) -> None:
    assert counted(number, "entry was", "entries were") == said
    assert counted(number, "step") == f"{number:,} step{'' if number == 1 else 's'}"
