"""`steadynorm healthcheck`: whether the server of this machine or container is alive, for orchestrators."""

from __future__ import annotations

import warnings

import typer

from steadynorm_cli.errors import CommandError


def healthcheck() -> None:
    """Ask the server that runs here with these variables whether it is alive. Exit code 1 if it does not.

    It asks /healthz and not /readyz: no orchestrator should restart the container because Redis is away.
    """
    import urllib3

    from steadynorm_contract.discovery import listener_url, read_address
    from steadynorm_server import config as configuration
    from steadynorm_server.errors import StartError

    try:
        config = configuration.read()
    except StartError as error:
        raise CommandError(str(error)) from None
    address = listener_url(config.host, config.port, "https" if config.tls_cert else "http")
    if config.port == 0:  # any free one, which the server has written down
        if (found := read_address(config.data.expanduser())) is None:
            raise CommandError(f"no server runs on {config.data}, and STEADYNORM_PORT is 0.")
        address = found.server
    try:
        # It is this machine's own listener: its certificate has another name, and nothing is sent that needs one.
        with warnings.catch_warnings(), urllib3.PoolManager(cert_reqs="CERT_NONE", assert_hostname=False) as http:
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            answer = http.request("GET", f"{address}/healthz", timeout=2.0, retries=False)
    except urllib3.exceptions.HTTPError as error:
        raise CommandError(f"{address}/healthz does not answer: {error}") from None
    if answer.status != 200:
        raise CommandError(f"{address}/healthz answers {answer.status}.")
    typer.echo(f"{address} is alive")
