"""A sink of one's own: a CSV file of the loss and the norm."""

import csv
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

import steadynorm
from steadynorm.sinks import RunInfo, SinkEvent

torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
folder = Path(tempfile.mkdtemp())


# --8<-- [start:sink]
class CsvSink:
    """Only write() is needed; open(), event() and close() may be left out."""

    def open(self, run: RunInfo) -> None:
        self.file = (folder / f"{run.run_id}.csv").open("w", newline="")
        self.rows = csv.writer(self.file)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self.rows.writerow([step, scalars.get("loss", ""), scalars["raw_norm"]])

    def event(self, event: SinkEvent) -> None:
        print(f"step {event.step}: {event.kind}: {event.message} {event.url or ''}")

    def close(self, state: str) -> None:
        self.file.close()


sink = CsvSink()
with steadynorm.attach(model, optimizer, run="own-sink", server="http://127.0.0.1:8470", sinks=[sink]) as agent:
    # --8<-- [end:sink]
    for batch in torch.randn(50, 32, 8):
        loss = torch.nn.functional.mse_loss(model(batch), batch.sum(dim=1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.log(loss=loss)

assert len((folder / f"{agent.run_id}.csv").read_text().splitlines()) == 50
assert all(not state.dropped for state in agent.health().sinks)
