"""What the top of a run's page says about the run."""

from __future__ import annotations

import msgspec
import pytest

from steadynorm_contract.runs import RunDetail
from steadynorm_dashboard.panels import run_header


def about(run: RunDetail, **changes: object) -> str:
    """The line, as it is shown: Markdown's escapes are not."""
    return run_header._about(msgspec.structs.replace(run, **changes)).replace("\\", "")


def test_the_agents_check_of_the_loop_and_whose_loss_it_is_are_on_the_page(pytestconfig: pytest.Config) -> None:
    golden = pytestconfig.rootpath / "tests" / "contract" / "golden" / "run.json"
    run = msgspec.json.decode(golden.read_bytes(), type=RunDetail)
    said = about(run, self_check="2 of 2 tensors, steps seen", world_size=8)
    assert "agent: 2 of 2 tensors, steps seen" in said
    assert "8 ranks; loss and batch ids are rank 0's" in said
    alone = about(run, self_check="", world_size=1)
    assert "agent:" not in alone
    assert "rank" not in alone
