"""`steadynorm link`: prints a link that signs you in to your own dashboard, once."""

from typing import Annotated

import typer

from steadynorm_cli.commands.options import Server, find_run
from steadynorm_cli.commands.output import tell
from steadynorm_cli.errors import CommandError
from steadynorm_cli.local_stack import answers
from steadynorm_contract.client import Client
from steadynorm_contract.discovery import find_server, find_token, own_server
from steadynorm_dashboard.launch import HEALTH_PATH
from steadynorm_dashboard.owner_link import make_link

_DASHBOARD = "http://127.0.0.1:8501"


def link(
    run: Annotated[str | None, typer.Argument(help="Id or name of a run, for its page.")] = None,
    dashboard: Annotated[
        str | None, typer.Option(metavar="URL", help=f"Address of the dashboard. Default: your own, {_DASHBOARD}.")
    ] = None,
    server: Server = None,
) -> None:
    """Print a link that signs your browser in to the dashboard of this machine, once, within ten minutes.

    Exit code 1 if no dashboard answers there.
    """
    address = server or find_server().server
    token = find_token(address)
    if token is None:
        raise CommandError(f"there is no token of {address} here: a link is for the user who runs the server.")
    own = own_server()
    place = dashboard or (own.dashboard if own is not None and own.server == address else None) or _DASHBOARD
    typer.echo(make_link(place, token, find_run(Client(address), run).run_id if run else None))
    if answers(place.rstrip("/") + HEALTH_PATH):
        return
    if dashboard is not None:  # it may be reached from the browser's machine, and not from here
        tell(f"warning: no dashboard answers at {place} from here.")
        return
    start = "dashboard" if own is not None and own.server == address else "up"
    raise CommandError(
        f"no dashboard answers at {place}, so this link leads nowhere yet: start one with `steadynorm {start}`, or "
        "name the address of another with --dashboard."
    )
