"""The server's log: lines for people, or one JSON object per line for machines.

STEADYNORM_LOG=text|json             default: text
STEADYNORM_LOG_LEVEL=warning|info    info: also one line for each request
Tokens are never logged: neither headers nor query strings are.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import msgspec

_FIELDS = ("request_id", "method", "path", "route", "status", "ms", "bytes", "client")
"""Fields that a record may have beside its message."""


class JsonFormatter(logging.Formatter):
    """{"time", "level", "logger", "message"}, then the request's fields and the traceback where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(_clean(line)).decode()


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00,000 WARNING logger: message [request id] in 1.5 ms`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 # the base class' name
        """The line before the traceback; control characters of a path cannot start a new one."""
        text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in super().formatMessage(record))
        named, took = getattr(record, "request_id", None), getattr(record, "ms", None)
        return text + (f" [{named}]" if named else "") + (f" in {took} ms" if took is not None else "")


FORMATS: dict[str, type[logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}


def configure(form: Literal["text", "json"], level: Literal["warning", "info"]) -> None:
    """Send all logs of this process to stderr in this format. Replaces any earlier configuration."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATS[form]())
    handler.addFilter(_logged_already)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("steadynorm_server").setLevel(level.upper())


def _logged_already(record: logging.LogRecord) -> bool:
    """False for uvicorn's traceback of an exception that is already logged with its request's id."""
    return not (record.name == "uvicorn.error" and record.getMessage().startswith("Exception in ASGI application"))


def _clean(line: dict[str, object]) -> dict[str, object]:
    # A path may contain half a surrogate pair, which is not valid UTF-8.
    return {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in line.items()
    }
