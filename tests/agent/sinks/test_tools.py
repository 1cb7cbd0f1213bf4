"""Each tool's own library, offline: what it stores are the numbers that the agent recorded, with links to the run.

One short training feeds all four at once, and a second one joins the runs that the loop has begun. In one file, since
the libraries take seconds to load.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.agent import Training

import steadynorm
from steadynorm.sinks import MLflow, TensorBoard, Trackio, Wandb
from steadynorm.sinks import thread as thread_module
from steadynorm.sinks.base import Row, RunInfo

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the libraries' own warnings

STEPS, SPIKE = 40, 35
URL = "http://127.0.0.1:1"  # no server is there: a tool has its numbers without one


class Recorded:
    """What any sink is given."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self.rows.setdefault(step, {}).update(scalars)


def train(sinks: list[Any], own: Any = None, **options: Any) -> tuple[steadynorm.Agent, dict[int, dict[str, float]]]:
    """A short run with a spike and a scalar of the loop's own. own: called after each step."""
    training, recorded = Training(), Recorded()
    with steadynorm.attach(
        training.model, training.optimizer, server=URL, run="tiny <b>run</b>", sinks=[*sinks, recorded],
        config={"lr": 0.01, "model": {"layers": 2}}, **options,
    ) as agent:  # fmt: skip
        for step in range(1, STEPS + 1):
            agent.log({"eval/entropy": step / 7}, loss=training.step(spike=1e4 if step == SPIKE else 1.0))
            if own is not None:
                own(step)
    assert [state.dropped for state in agent.health().sinks] == [{}] * (len(sinks) + 1), str(agent.health())
    return agent, recorded.rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In which all of the tools keep what they have."""
    path = tmp_path_factory.mktemp("tools")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(path),
            "WANDB_SILENT": "true",
            "WANDB_ERROR_REPORTING": "false",
            "MLFLOW_ALLOW_FILE_STORE": "true",
            "MLFLOW_TRACKING_URI": f"file:{path}/mlruns",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "TRACKIO_DIR": str(path / "trackio"),
            "STEADYNORM_HOME": str(path / "home"),
        }.items():
            patch.setenv(name, value)
        patch.setattr("steadynorm.sink_feed.CLOSE_S", 120.0)  # a loaded machine loads the libraries for long
        patch.setattr(thread_module, "HUNG_S", 120.0)
        patch.chdir(path)
        yield path


@pytest.fixture(scope="module")
def run(folder: Path) -> SimpleNamespace:
    """One training into all of the tools."""
    agent, rows = train(["wandb", "tensorboard", "mlflow", "trackio"])
    assert sorted(rows) == list(range(1, STEPS + 1))
    return SimpleNamespace(id=agent.run_id, url=agent.url, rows=rows)


def history(folder: Path, run_id: str) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Rows, summary and configuration of an offline run of W&B, as its file has them."""
    pb = loaded("wandb.proto.wandb_internal_pb2")
    (file,) = folder.glob(f"wandb/*-{run_id}/run-{run_id}.wandb")
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for data in messages(file.read_bytes()):
        record = pb.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            rows.append(_items(record.history.item))
        summary |= _items(record.summary.update) if record.HasField("summary") else {}
        config |= _items(record.config.update) if record.HasField("config") else {}
        config |= _items(record.run.config.update) if record.HasField("run") else {}
    return rows, summary, config


def loaded(name: str) -> Any:
    """The module: some of these have no types."""
    return importlib.import_module(name)


def messages(data: bytes) -> Iterator[bytes]:
    """Of W&B's file: blocks of 32 KiB as LevelDB's log has them, after a header of seven bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := 32_768 - at % 32_768) < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # the whole of a message, or its last part
            yield whole
            whole = b""


def _items(items: Any) -> dict[str, Any]:
    return {"/".join(each.nested_key) or each.key: json.loads(each.value_json) for each in items}


def _same(found: Mapping[str, Any], expected: Mapping[str, float]) -> None:
    for name, value in expected.items():
        got = float(found[f"steadynorm/{name}"])
        assert got == value or (math.isnan(got) and math.isnan(value)), (name, got, value)


def test_wandbs_numbers_are_ours(run: SimpleNamespace, folder: Path) -> None:
    rows, summary, config = history(folder, run.id)
    ours = [row for row in rows if "steadynorm/step" in row]
    assert [row["steadynorm/step"] for row in ours] == list(run.rows)
    for row in ours:
        _same(row, run.rows[row["steadynorm/step"]])
    assert summary["steadynorm/url"] == run.url
    assert f"step {SPIKE}: spike" in summary["steadynorm/events"]
    assert config["model"] == {"layers": 2}
    assert config["steadynorm"]["run_id"] == run.id


def test_tensorboards_numbers_are_ours(run: SimpleNamespace, folder: Path) -> None:
    accumulator = loaded("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    stored = accumulator(str(folder / "runs" / run.id), size_guidance={"scalars": 0, "tensors": 0})
    stored.Reload()
    for name in ("raw_norm", "loss", "spikes", "learning_rate"):
        found = {each.step: each.value for each in stored.Scalars(f"steadynorm/{name}")}
        assert found == {step: row[name] for step, row in run.rows.items()}
    entropy = {each.step: each.value for each in stored.Scalars("steadynorm/eval/entropy")}
    assert entropy == {step: pytest.approx(step / 7, rel=1e-7) for step in run.rows}  # float32 there
    (spike,) = [each for each in stored.Tensors("steadynorm/events/text_summary") if each.step == SPIKE]
    assert b"spike" in spike.tensor_proto.string_val[0]
    about = b"".join(each.tensor_proto.string_val[0] for each in stored.Tensors("steadynorm/run/text_summary"))
    assert run.url.encode() in about
    assert b"    run tiny <b>run</b>" in about  # as code, which is not drawn as markup


def test_mlflows_numbers_are_ours(run: SimpleNamespace, folder: Path) -> None:
    client = loaded("mlflow").MlflowClient()
    (stored,) = client.search_runs(
        [client.get_experiment_by_name("steadynorm").experiment_id], f"tags.`steadynorm.run_id` = '{run.id}'"
    )
    for name in run.rows[1]:
        found = {each.step: each.value for each in client.get_metric_history(stored.info.run_id, f"steadynorm/{name}")}
        assert found == {step: row[name] for step, row in run.rows.items()}, name
    assert stored.data.tags["steadynorm.url"] == run.url
    assert f"step {SPIKE}: spike" in stored.data.tags["steadynorm.events"]
    assert stored.data.params["model.layers"] == "2"
    assert (stored.info.run_name, stored.info.status) == ("tiny <b>run</b>", "FINISHED")


def test_trackios_numbers_are_ours(run: SimpleNamespace, folder: Path) -> None:
    storage = loaded("trackio.sqlite_storage").SQLiteStorage
    rows = storage.get_logs("steadynorm", run.id)
    assert [row["step"] for row in rows] == list(run.rows)
    for row in rows:
        _same(row, run.rows[row["step"]])
    (spike,) = [each for each in storage.get_alerts("steadynorm", run.id) if "spike" in each["title"]]
    assert spike["step"] == SPIKE
    config = storage.get_run_config("steadynorm", run.id)
    assert config is not None
    assert config["steadynorm"]["url"] == run.url


def test_runs_that_the_loop_has_begun_are_joined_and_left_open_with_all_of_the_loops_rows(folder: Path) -> None:
    mlflow, trackio, wandb = map(loaded, ("mlflow", "trackio", "wandb"))
    storage = loaded("trackio.sqlite_storage").SQLiteStorage
    mlflow.set_experiment("mine")
    with wandb.init(project="mine", id="mine-1") as mine, mlflow.start_run() as active:
        logs = trackio.init("mine", name="mine-1", auto_log_gpu=False, auto_log_cpu=False)
        _, rows = train(
            [Wandb(), MLflow(), Trackio(), TensorBoard(folder / "mine")],
            own=lambda step: (mine.log({"mine": step}, step=step), logs.log({"mine": step}, step=step)),
        )
        assert wandb.run is mine
        mine.log({"mine": STEPS + 1}, step=STEPS + 1)
        assert mlflow.active_run().info.run_id == active.info.run_id
        mlflow.log_metric("mine", 1.0)
        logs.finish()
    stored = mlflow.get_run(active.info.run_id)
    assert (stored.info.status, stored.data.tags["steadynorm.state"]) == ("FINISHED", "finished")
    client = mlflow.MlflowClient()
    norms = client.get_metric_history(active.info.run_id, "steadynorm/raw_norm")
    assert {each.step: each.value for each in norms} == {step: row["raw_norm"] for step, row in rows.items()}

    found, summary, config = history(folder, "mine-1")
    assert [row["mine"] for row in found if "mine" in row] == list(range(1, STEPS + 2))  # none was dropped
    for row in found:
        if "steadynorm/step" in row:
            _same(
                {"steadynorm/raw_norm": row["steadynorm/raw_norm"]},
                {"raw_norm": rows[row["steadynorm/step"]]["raw_norm"]},
            )
    assert summary["steadynorm/step"] == STEPS
    assert config["steadynorm"]["config"]["lr"] == 0.01
    logged = storage.get_logs("mine", "mine-1")
    assert {row["mine"] for row in logged if "mine" in row} == set(range(1, STEPS + 1))
    assert {row["step"] for row in logged if "steadynorm/raw_norm" in row} == set(rows)


def test_a_run_of_mlflow_that_the_loop_resumes_in_another_process_is_joined_again(folder: Path) -> None:
    """MLflow refuses a parameter with another value: then nothing of the second process was written."""
    mlflow = loaded("mlflow")
    mlflow.set_experiment("resumed")
    run_id = None
    for step, command in ((1, "train.py"), (2, "train.py --resume")):
        with mlflow.start_run(run_id=run_id) as active:
            run_id, sink = active.info.run_id, MLflow()
            sink.find_active()
            sink.open(RunInfo("tiny-1", "tiny", environment={"command": command, f"only {step}": "yes"}))
            sink.write_rows([Row(step, 0.0, {"raw_norm": 1.0})])
            sink.close("finished")
    norms = mlflow.MlflowClient().get_metric_history(run_id, "steadynorm/raw_norm")
    assert [each.step for each in norms] == [1, 2]
    params = mlflow.get_run(run_id).data.params
    assert {name: value for name, value in params.items() if name.startswith("steadynorm")} == {
        "steadynorm.environment.command": "train.py",
        "steadynorm.environment.only 1": "yes",
        "steadynorm.environment.only 2": "yes",
    }


def test_values_that_come_late_do_not_take_a_row_of_the_loops_own_run_back_to_their_step() -> None:
    sink, rows = Wandb(), list[Any]()
    sink._run = SimpleNamespace(log=lambda values, commit: rows.append((values, commit)))
    sink.write_rows([Row(40, 0.0, {"raw_norm": 1.0}), Row(20, 0.0, {"eval/loss": 2.0})])
    assert rows == [
        ({"steadynorm/raw_norm": 1.0, "steadynorm/step": 40}, False),
        ({"steadynorm/eval/loss": 2.0, "steadynorm/step": 40}, False),
    ]
