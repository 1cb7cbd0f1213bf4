"""`steadynorm`: the command line's entry. The commands are in `commands/`, and errors become a sentence here.

Imports nothing that an extra brings before it is needed: a training image that has only the agent gets told what to
install, and `steadynorm runs` starts without FastAPI, Streamlit or torch.
"""

from __future__ import annotations

import os
import sys

from steadynorm_cli.errors import CommandError
from steadynorm_contract.client import ClientError, InvalidChange

__all__ = ["main"]

EXTRA_OF = {
    "fastapi": "server",
    "hiredis": "server",
    "httpx": "server",
    "prometheus_client": "server",
    "pyarrow": "server",
    "pydantic": "server",
    "pydantic_settings": "server",
    "redis": "server",
    "starlette": "server",
    "rich": "cli",
    "typer": "cli",
    "uvicorn": "server",
    "streamlit": "dashboard",
    "torch": "demo",
}
"""Which extra brings a package that may be absent."""


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong usage, and those of `commands.change`."""
    try:
        from steadynorm_cli.commands import app

        app(prog_name="steadynorm")
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _fail(f"this needs the package {error.name}, which is not installed: pip install 'steadynorm[{extra}]'")
    except InvalidChange as error:
        _fail("; ".join(one.message for one in error.errors) or str(error))
    except ClientError as error:
        _fail(str(error))
    except CommandError as error:
        _fail(str(error), error.code)
    except BrokenPipeError:  # `steadynorm runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(message: str, code: int = 1) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
