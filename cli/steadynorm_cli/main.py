"""Entry of `steadynorm`. The commands are in `commands/`; errors are printed as one sentence here.

Imports nothing of an extra before it is needed: a training image that has only the agent prints what to install, and
`steadynorm runs` starts without FastAPI, Streamlit or torch.
"""

import errno
import io
import os
import sys

from steadynorm_cli.errors import CommandError, plain
from steadynorm_contract.client import ClientError, InvalidChange, OutcomeUnknown
from steadynorm_contract.discovery import is_service_link

EXTRA_OF = {
    "fastapi": "server",
    "hiredis": "server",
    "httpx": "server",
    "mcp": "mcp",
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
"""The extra that installs a package."""


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main() -> None:
    """Run the command line. Exit codes: 0 success, 1 failure, 2 usage error; more in `set`, `outcome`, `audit`."""
    if is_service_link(os.environ.get("STEADYNORM_PORT")):
        del os.environ["STEADYNORM_PORT"]  # Kubernetes' word about a Service of our name, not the user's
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="replace")  # a locale without arrows gets a ? for one
    try:
        from steadynorm_cli.commands import app

        app(prog_name="steadynorm")
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _fail(f"this command needs the package {error.name}, which is not installed: pip install 'steadynorm[{extra}]'")
    except InvalidChange as error:
        _fail(" ".join(one.message for one in error.errors) or str(error))
    except OutcomeUnknown as error:
        _fail(str(error), 7)
    except ClientError as error:
        _fail(str(error))
    except CommandError as error:
        _fail(str(error), error.code)
    except UnicodeEncodeError as error:  # of a terminal with another encoding
        _fail(f"what is sent must be UTF-8 text: got {error.object!r}", 2)
    except BrokenPipeError:  # `steadynorm runs | head`
        _close_output()
        sys.exit(1)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        if error.filename is None:
            _close_output()
        where = error.filename or "what this command prints"
        _fail(f"{where} cannot be written: {error.strerror}. Make room, or write to another place.")


def _close_output() -> None:
    """What is still to be written is lost: Python would try it again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int = 1) -> None:
    lines = "\n".join(map(plain, message.split("\n")))  # a server's, a job's or a person's words are in it
    print(f"error: {lines}", file=sys.stderr)
    sys.exit(code)
