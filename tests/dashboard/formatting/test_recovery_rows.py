"""Who called for a rollback, in the table of a run's page."""

from __future__ import annotations

import pytest

from steadynorm_contract.events import Event, EventKind
from steadynorm_dashboard.formatting.tables import recovery_rows


@pytest.mark.parametrize(
    ("actor", "why", "shown"),
    [
        ("rule:back by ann\x1b[2J", "requested by rule:back by ann as revision 2", "rule:back by ann\ufffd[2J"),
        (None, "requested, rollback_generation 2", "a request"),  # of a server of before
        (None, "loss is nan for 2 steps", "a detector"),
    ],
)
def test_the_table_names_who_asked(actor: str | None, why: str, shown: str) -> None:
    event = Event(
        id="1-1", kind=EventKind.ROLLBACK, step=330, time=3.0, message=f"rolled back from 330 to 200: {why}.",
        value=200.0, actor=actor,
    )  # fmt: skip
    (row,) = recovery_rows([event], 4.0, None)
    assert (row["by"], row["why"]) == (shown, f"{why}.")
