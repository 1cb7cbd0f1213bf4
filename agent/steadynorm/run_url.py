"""Where a run is looked at: its page in the dashboard, or, without one, the run at its server."""

from steadynorm_contract.discovery import data_dir, own_server, read_address


def run_url(server: str, run_id: str) -> str:
    """Address of the run's page in the dashboard, if the server is the user's own; else of the run at the server."""
    own = own_server() or read_address(data_dir())
    if own is not None and own.dashboard and own.server == server:
        return f"{own.dashboard.rstrip('/')}/?run={run_id}"
    return f"{server}/api/v1/runs/{run_id}"
