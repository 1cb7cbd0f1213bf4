"""A write whose answer did not come: says so, and looks what came of it before the command ends."""

from collections.abc import Callable
from typing import TypeVar

import typer

from steadynorm_cli.errors import CommandError, plain
from steadynorm_contract.client import OutcomeUnknown

NOT_DONE = 1
"""Exit code: the server answers again, and the write was not made."""
CONFLICT = 3
"""Exit code: something else was written first."""
UNKNOWN = 7
"""Exit code: the server still does not answer, so the write may have been made, or may be yet."""
_LOOK_S = 15.0

_T = TypeVar("_T")


def confirmed(write: Callable[[], _T]) -> _T:
    """The result of `write`, also where it is known only by looking afterwards.

    Raises:
        CommandError: It was not made, with NOT_DONE or CONFLICT, or nobody knows yet, with UNKNOWN.
        ClientError: A definite refusal, or nothing was sent.
    """
    try:
        return write()
    except OutcomeUnknown as unknown:
        typer.echo(plain(f"{unknown} Looking what came of it ..."), err=True)
        found = unknown.settle(_LOOK_S)
        if found is None:
            raise CommandError(
                "the outcome is unknown: the server does not answer, and may have made the change or make it yet. "
                "Once it answers, look with `steadynorm show RUN` before you repeat the command.",
                UNKNOWN,
            ) from None
        if found.made or found.result is not None:
            typer.echo(plain(found.text), err=True)
            result: _T = found.result
            return result
        again = "See `steadynorm show RUN`, then try again" if found.final else "Repeat the command"
        raise CommandError(f"{found.text}. {again}.", CONFLICT if found.final else NOT_DONE) from None
