"""`steadynorm backup`: the embedded store to one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steadynorm_cli.commands.options import Data
from steadynorm_cli.errors import CommandError
from steadynorm_contract.discovery import data_dir


def backup(
    file: Annotated[Path, typer.Argument(help="The backup, a tar file. Replaced if it exists.")],
    restore: Annotated[bool, typer.Option("--restore", help="Fill an empty data folder from FILE instead.")] = False,
    data: Data = None,
) -> None:
    """Back up the runs of the server on this machine's data folder, while it runs or not.

    For the embedded store only: back up a Redis of your own by its own means. Tokens and logs are not included.
    """
    from steadynorm_server.errors import StartError
    from steadynorm_server.runtime import backup as backups

    folder = (data or data_dir()).expanduser() / "redis"
    try:
        if restore:
            backups.restore(file, folder)
            typer.echo(f"{folder} has the runs of {file}: start the server on it")
        else:
            typer.echo(f"{file}: {backups.back_up(folder, file) / 2**20:.1f} MiB")
    except StartError as error:
        raise CommandError(str(error)) from None
