"""Where people look at a run."""

from __future__ import annotations

from steadynorm_contract.home import find_server

__all__ = ["page_of"]


def page_of(server: str, run_id: str) -> str:
    """Address of the run's page in the dashboard, if the server is the user's own; else of the run at the server."""
    own = find_server()
    if own.server == server and own.dashboard:
        return f"{own.dashboard.rstrip('/')}/?run={run_id}"
    return f"{server}/api/v1/runs/{run_id}"
