"""`steadynorm export`: a run's history as a Parquet file, for notebooks."""

import contextlib
import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from steadynorm_cli.commands.options import Run, Server, find_run
from steadynorm_cli.errors import CommandError
from steadynorm_contract.client import Client


class Table(enum.StrEnum):
    """The exported table."""

    STEPS = "steps"
    PARAMETERS = "parameters"
    SCALARS = "scalars"


def export(
    run: Run,
    table: Annotated[
        Table,
        typer.Option(
            help="steps: loss, norms and counts of every step. parameters: the rows of every parameter. "
            "scalars: what the loop logs under names of its own."
        ),
    ] = Table.STEPS,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; - for standard output. Default: RUN-TABLE.parquet."),
    ] = None,
    server: Server = None,
) -> None:
    """Write a run's history as Parquet: single steps where still stored, minimum, mean and maximum of older buckets."""
    client = Client(server)
    run_id = find_run(client, run).run_id
    if output is not None and str(output) == "-":
        client.export(run_id, sys.stdout.buffer, table.value)
        return
    path = output or Path(Path(f"{run_id}-{table.value}.parquet").name)  # here, whatever a server calls its run
    # Under another name until it is complete: a file with the right name can be read. A pipe or a device has one name,
    # and what its link /dev/fd/63 leads to is no path. A link to a file stays, and what it leads to is written.
    has_one_name = path.exists() and not path.is_file()
    target = path if has_one_name else path.resolve()
    draft = target if has_one_name else target.with_name(f".{target.name}.part")
    try:
        with draft.open("wb") as file:
            size = client.export(run_id, file, table.value)
        if draft != target:
            draft.replace(target)
    except OSError as error:
        raise CommandError(
            f"{path} cannot be written: {error.strerror or error}. Choose another with --output."
        ) from None
    finally:
        if draft != target:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
    print(f"{path}: {size} bytes", file=sys.stderr)
