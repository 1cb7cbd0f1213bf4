"""MLflow: a run of ours, or the one that the loop has begun."""

from __future__ import annotations

import itertools
import re
import sys
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from steadynorm.sinks.base import MAX_EVENTS_SHOWN, PREFIX, Row, RunInfo, SinkEvent, Tool, flat, own_facts

_RUN_ID = "steadynorm.run_id"
_MAX_METRICS = 1000  # of one request to an MLflow server
_MAX_PARAMS = 100
_MAX_PARAM_LENGTH = 500  # of a server of any version
_ENDS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_FOREIGN = re.compile(r"[^\w./ -]", re.ASCII)


class MLflow(Tool):
    """Joins the active run of the thread that trains, if it has one at its first step, and leaves it open; else begins
    one, or continues the one of a restarted run, and ends it.

    Args:
        experiment: In which a run is begun.
        tracking_uri: Of the server or store; None: as MLflow is configured.
    """

    package = "mlflow"
    extra = "mlflow"

    def __init__(self, experiment: str = "steadynorm", tracking_uri: str | None = None) -> None:
        self._experiment, self._uri = experiment, tracking_uri
        self._client: Any = None
        self._run_id: str | None = None  # MLflow's
        self._is_ours = False
        self._events: deque[str] = deque(maxlen=MAX_EVENTS_SHOWN)

    def find_active(self) -> None:
        """The loop's run, which MLflow knows by the thread."""
        active = getattr(sys.modules.get("mlflow"), "active_run", lambda: None)()
        self._run_id = None if active is None else active.info.run_id

    def open(self, run: RunInfo) -> None:
        """Begin a run, or describe ours in the loop's."""
        import mlflow
        from mlflow.entities import Param

        self._client = mlflow.MlflowClient(tracking_uri=self._uri)
        tags = {_RUN_ID: run.run_id, "steadynorm.url": run.url or "", **flat(own_facts(run)["tags"], "steadynorm.tag.")}
        if self._run_id is None:
            self._run_id = self._begin(run)
            self._is_ours = True
        if self._is_ours and run.url:
            tags["mlflow.note.content"] = f"steadynorm: {run.url}"
        for name, value in tags.items():
            self._client.set_tag(self._run_id, _name(name), value)
        described = {**(run.config if self._is_ours else {}), "steadynorm.environment": run.environment}
        params = [Param(_name(name), value[:_MAX_PARAM_LENGTH]) for name, value in flat(described).items()]
        # MLflow refuses to change what a run was begun with: after a restart that is of the process before.
        known = self._client.get_run(self._run_id).data.params
        for some in _batched([each for each in params if each.key not in known], _MAX_PARAMS):
            self._client.log_batch(self._run_id, params=some)

    def _begin(self, run: RunInfo) -> str:
        experiment = self._client.get_experiment_by_name(self._experiment)
        where = self._client.create_experiment(self._experiment) if experiment is None else experiment.experiment_id
        known = self._client.search_runs([where], f"tags.`{_RUN_ID}` = '{run.run_id}'", max_results=1)
        if known:
            self._client.set_terminated(known[0].info.run_id, "RUNNING")
            found: str = known[0].info.run_id
            return found
        begun: str = self._client.create_run(where, run_name=run.name, tags={_RUN_ID: run.run_id}).info.run_id
        return begun

    def write_rows(self, rows: Sequence[Row]) -> None:
        """As few requests as MLflow allows."""
        from mlflow.entities import Metric

        metrics = [
            Metric(_name(PREFIX + name), value, int(1000 * (row.time or time.time())), row.step)
            for row in rows
            for name, value in row.scalars.items()
        ]
        for some in _batched(metrics, _MAX_METRICS):
            self._client.log_batch(self._run_id, metrics=some)

    def event(self, event: SinkEvent) -> None:
        """The newest ones are in a tag."""
        self._events.append(f"step {event.step}: {event.kind}: {event.message}{f' {event.url}' if event.url else ''}")
        self._client.set_tag(self._run_id, "steadynorm.events", "\n".join(reversed(self._events))[:5000])

    def close(self, state: str) -> None:
        """End a run of ours."""
        self._client.set_tag(self._run_id, "steadynorm.state", state)
        if self._is_ours:
            self._client.set_terminated(self._run_id, _ENDS.get(state, "FINISHED"))


def _name(name: str) -> str:
    """As MLflow takes it: other characters are replaced, and a hash keeps two names apart."""
    allowed = _FOREIGN.sub("_", name)[:240]
    return name if allowed == name else f"{allowed}_{zlib.crc32(name.encode('utf-8', 'backslashreplace')):08x}"


def _batched(items: Sequence[Any], most: int) -> Iterator[list[Any]]:
    remaining = iter(items)
    while some := list(itertools.islice(remaining, most)):
        yield some
