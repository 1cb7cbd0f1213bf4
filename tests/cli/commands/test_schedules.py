"""`steadynorm schedule` and `schedules` on a job that trains."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.jobs import Job
    from tests.support.local_server import RunningStack


def test_a_schedule_is_made_listed_and_carried_out_while_the_job_trains(
    steadynorm: Command, stack: RunningStack, job: Job, eventually: Any
) -> None:
    late = steadynorm("schedule", job.run_id, "--from-step", "1", "gamma2=0.9")
    assert late.returncode == 1
    assert "from_step must be a step that the run has not reached yet: got 1" in late.stderr
    soon = stack.client.run(job.run_id).step + 400
    made = steadynorm("schedule", job.run_id, "--from-step", str(soon), "gamma2=0.9", "reset_generation=+1",
                      "--reason", "a longer memory")  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert f"gamma2=0.9 reset_generation=+1 from step {soon}" in made.stdout
    far = json.loads(steadynorm("schedule", job.run_id, "--from-step", "1000000", "stop=true", "--json").stdout)
    assert (far["state"], far["settings"]) == ("waiting", {"stop": True})
    gone = steadynorm("schedules", job.run_id, "--remove", far["id"])
    assert (gone.returncode, gone.stdout) == (0, f"{job.run_id}: schedule {far['id']} is cancelled\n")
    entry = eventually(
        lambda: next((each for each in stack.client.audit(job.run_id).entries if each.applied_step is not None), None)
    )
    assert entry.actor.startswith("schedule:")
    assert (entry.reason, entry.after) == ("a longer memory", {"gamma2": 0.9, "reset_generation": 1})
    assert entry.applied_step >= soon
    listed = steadynorm("schedules", job.run_id)
    assert "done" in listed.stdout
    assert "revision 1 at step" in listed.stdout
    assert steadynorm("schedules", job.run_id, "--remove", "nothing").returncode == 1
