"""What all frameworks' callbacks share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from steadynorm.integrations.base import Session

if TYPE_CHECKING:
    from tests.support.agent import Training


def test_a_training_whose_state_was_refused_can_begin_again(training: Training) -> None:
    session = Session({"server": ""})
    with pytest.raises(ValueError, match="version 1 or 2: got 7"):
        session.begin(training.model, [training.optimizer], state={"version": 7})
    refused = session.agent
    agent = session.begin(training.model, [training.optimizer])
    assert refused is not None
    assert refused.closed
    assert session.agent is agent
    session.end()
