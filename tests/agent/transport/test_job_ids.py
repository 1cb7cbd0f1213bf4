"""A run has its scheduler's ids by itself, and the user's own tags win."""

from __future__ import annotations

import pytest

from steadynorm.job_ids import job_ids

SLURM = {"SLURM_JOB_ID": "4711"}
ARRAY = {**SLURM, "SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "11"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {}),
        ({"HOSTNAME": "laptop"}, {}),
        (SLURM, {"slurm_job": "4711"}),
        (ARRAY, {"slurm_job": "4700_11"}),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {"kubernetes_pod": "train-0-x7k2p"}),
        ({**SLURM, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {"slurm_job": "4711", "kubernetes_pod": "train-0-x7k2p"}),
    ],
)
def test_a_job_is_named_as_its_scheduler_takes_it(environ: dict[str, str], expected: dict[str, str]) -> None:
    assert job_ids(environ, "train-0-x7k2p") == expected
