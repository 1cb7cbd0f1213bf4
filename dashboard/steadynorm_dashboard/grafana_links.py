"""The way to Grafana, where there is one: its dashboard of a run, at the time that the run covers.

STEADYNORM_GRAFANA_URL     Grafana's address as browsers see it; without it there is no link
"""

from __future__ import annotations

import os
from urllib.parse import urlencode, urlsplit

from steadynorm_contract.runs import RunState, RunSummary

__all__ = ["run_address"]

_DASHBOARD = "d/steadynorm-run"  # as deploy/grafana makes it
_MARGIN_S = 60.0


def run_address(run: RunSummary) -> str | None:
    """Address of the run's dashboard in Grafana; None: no Grafana is configured, or by no address of the web."""
    front = os.environ.get("STEADYNORM_GRAFANA_URL", "").strip().rstrip("/")
    if urlsplit(front).scheme not in ("http", "https"):
        return None
    live = run.state not in (RunState.FINISHED, RunState.FAILED, RunState.STOPPED)
    query = {
        "var-run_id": run.run_id,
        "from": str(int(1000 * (run.started - _MARGIN_S))),
        "to": "now" if live else str(int(1000 * (run.last_seen + _MARGIN_S))),
    }
    return f"{front}/{_DASHBOARD}?{urlencode(query)}"
