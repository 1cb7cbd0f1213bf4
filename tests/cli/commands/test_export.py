"""`steadynorm export`: a file that a notebook reads, as docs/notebooks.md says."""

from __future__ import annotations

import fcntl
import io
import os
import runpy
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import urllib3

from steadynorm_contract.client import NotFound
from steadynorm_contract.codec import encode_batch, encode_json
from steadynorm_contract.telemetry import (
    ROW_COLUMNS,
    SCALAR_COLUMNS,
    Parameter,
    ParameterRows,
    RunRegistration,
    StepScalars,
    TelemetryBatch,
    floats_to_bytes,
)

STEPS = range(1, 501)
SPIKE = 250


@pytest.fixture(scope="module")
def run_id(stack: Any) -> str:
    """A run of 500 steps and two parameters, of which one spikes."""
    headers = {"Authorization": f"Bearer {stack.token}"}
    base = f"{stack.server}/api/v1/runs"
    parameters = [Parameter("head,weight", (4, 4), "float32"), Parameter("head.bias", (4,), "float32")]
    registration = RunRegistration(name="exported", run_id="exported-1", parameters=parameters)
    assert urllib3.request("POST", base, body=encode_json(registration), headers=headers).status == 201
    norms = [64.0 if step == SPIKE else 1.0 for step in STEPS]
    zeros = [0.0] * len(SCALAR_COLUMNS)
    scalars = [value for norm in norms for value in [2.0, 1e-3, norm, *zeros[3:]]]
    rows = [value for norm in norms for own in (norm, 1.0) for value in [own] * len(ROW_COLUMNS)]
    times = b"".join(step.to_bytes(8, "little") for step in STEPS)  # of no interest: all within a moment of 1970
    batch = TelemetryBatch(
        incarnation=1,
        sequence=1,
        scalars=StepScalars(list(STEPS), times, floats_to_bytes(scalars)),
        rows=ParameterRows(list(STEPS), 2, floats_to_bytes(rows)),
    )
    sent = urllib3.request("POST", f"{base}/exported-1/telemetry", body=encode_batch(batch), headers=headers)
    assert sent.status == 200, sent.data
    return "exported-1"


def test_what_the_documentation_does_with_an_export_works(
    steadynorm: Any, run_id: str, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = steadynorm("export", "exported")
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    assert ended.stderr == f"exported-1-steps.parquet: {Path('exported-1-steps.parquet').stat().st_size} bytes\n"
    assert steadynorm("export", run_id, "--table", "parameters", "-o", "rows.parquet").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported-1-steps.parquet", "rows.parquet"]
    Path("exported-1-steps.parquet").rename("steps.parquet")
    names: dict[str, Any] = {}
    for snippet in ("notebook_steps", "notebook_parameters"):
        names |= runpy.run_path(str(root / "docs" / "snippets" / f"{snippet}.py"))
    assert names["run"]["name"] == "exported"
    assert list(names["loss"]) == [2.0]
    assert (names["worst"].iloc[0]["step"], names["worst"].iloc[0]["raw_norm_max"]) == (SPIKE, 64.0)
    assert names["norms"].loc[SPIKE].to_dict() == {"head,weight": 64.0, "head.bias": 1.0}
    assert set(names["spiked"]["step"]) == {1, SPIKE}
    names = runpy.run_path(str(root / "docs" / "snippets" / "notebook_polars.py"))
    assert names["loss"]["loss"].to_list() == [2.0]
    assert names["worst"].row(0)[::2] == (SPIKE, 64.0)
    assert set(names["spiked"]["step"]) == {1, SPIKE}


def test_where_no_file_can_be_written_the_command_says_so(steadynorm: Any, run_id: str, tmp_path: Path) -> None:
    ended = steadynorm("export", run_id, "--output", str(tmp_path / "absent" / "x.parquet"))
    assert (ended.returncode, list(tmp_path.iterdir())) == (1, [])
    assert "No such file or directory. Choose another with --output." in ended.stderr


def test_a_client_writes_into_any_file(stack: Any, run_id: str) -> None:
    whole = io.BytesIO()
    assert stack.client.export(run_id, whole) == len(whole.getvalue())
    assert pq.read_table(whole)["step"].to_pylist() == list(STEPS)


def test_a_name_with_a_comma_has_its_series(stack: Any, run_id: str) -> None:
    found = stack.client.series(run_id, ["raw_norm/head,weight", "loss"]).series
    assert max(found["raw_norm/head,weight"].max) == 64.0
    assert set(found["loss"].mean) == {2.0}


def test_a_run_that_is_not_there_leaves_no_file(stack: Any, steadynorm: Any, tmp_path: Path) -> None:
    ended = steadynorm("export", "nobody", "--output", str(tmp_path / "x.parquet"))
    assert (ended.returncode, list(tmp_path.iterdir())) == (1, [])
    with pytest.raises(NotFound):
        stack.client.export("nobody", io.BytesIO())


def test_a_pipe_is_written_to_and_a_link_stays_a_link(steadynorm: Any, run_id: str, tmp_path: Path) -> None:
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as read:
        fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, 2**20)
        assert steadynorm("export", run_id, "-o", str(pipe)).returncode == 0
        assert pipe.is_fifo(), "it was replaced by a file"
        assert read.read().startswith(b"PAR1")
    file.write_bytes(b"old")
    link.symlink_to(file)
    assert steadynorm("export", run_id, "-o", str(link)).returncode == 0
    assert link.is_symlink()
    assert file.read_bytes().startswith(b"PAR1")


def test_a_link_to_a_pipe_without_a_name_is_written_to(steadynorm: Any, run_id: str, tmp_path: Path) -> None:
    """As `-o >(cat)` of a shell gives it: the link leads to `pipe:[123]`, which is no path."""
    out, into = os.pipe()
    with open(out, "rb") as read, open(into, "wb") as written:
        fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, 2**20)
        done = steadynorm("export", run_id, "-o", f"/proc/{os.getpid()}/fd/{into}")
        assert done.returncode == 0, done.stderr
        written.close()
        assert read.read().startswith(b"PAR1")
