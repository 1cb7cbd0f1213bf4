"""`steadynorm mcp`: runs and proposals as tools for agents that speak the Model Context Protocol."""

import logging

from steadynorm_cli.commands.options import Server
from steadynorm_contract.client import Client


def mcp(server: Server = None) -> None:
    """Serve tools to an MCP client over standard input and output: read runs, and propose changes.

    The token decides what it may do: `steadynorm token new NAME --role proposer`. It cannot approve what it proposes.
    """
    from steadynorm_cli.mcp_server import make_server

    logging.disable(logging.WARNING)  # standard error is the client's log
    make_server(Client(server)).run("stdio")
