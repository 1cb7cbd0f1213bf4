"""Links to a run's dashboard in Grafana, for the time range of the run.

STEADYNORM_GRAFANA_URL     Grafana's address for browsers; without it there is no link
"""

from __future__ import annotations

import os
from urllib.parse import urlencode, urlsplit

from steadynorm_contract.runs import RunSummary

_DASHBOARD = "d/steadynorm-run"  # as provisioned by deploy/grafana
_MARGIN_S = 60.0


def run_url(run: RunSummary) -> str | None:
    """The address of the run's dashboard in Grafana. None: Grafana is not configured, or not with an HTTP address."""
    base = os.environ.get("STEADYNORM_GRAFANA_URL", "").strip().rstrip("/")
    if urlsplit(base).scheme not in ("http", "https"):
        return None
    query = {
        "var-run_id": run.run_id,
        "from": str(int(1000 * (run.started - _MARGIN_S))),
        "to": "now" if run.state.is_live else str(int(1000 * (run.last_seen + _MARGIN_S))),
    }
    return f"{base}/{_DASHBOARD}?{urlencode(query)}"
