"""Who did what, as JSON lines that outlive the runs.

One for each change of settings, rules, limits, notes and runs, and for each agent that begins or takes over a run.

STEADYNORM_AUDIT_LOG=/var/log/steadynorm/audit.jsonl    a file, opened anew where logrotate has moved it
STEADYNORM_AUDIT_LOG=-                                  standard output, for a container's log

A line has `time`, `kind`, `run_id`, `actor`, and what the run's own list has, with the hashes of its chain: so a list
that was rewritten, or deleted with its run, can still be told. It is written after the change was made, so a line that
cannot be written fails nothing: it is counted, and the log says so.
"""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable
from logging.handlers import WatchedFileHandler
from typing import Literal, TextIO

import msgspec

from steadynorm_server.errors import StartError

Kind = Literal[
    "registered", "adopted", "settings", "lifecycle", "removed", "expired", "retention", "rules", "schedule",
    "unscheduled", "note", "proposal", "proposal_refused",
]  # fmt: skip
"""registered: an agent began a run or took it over, with the settings that hold from there on, and whether they are the
agent's own. adopted: one that knows a revision which Redis lost brought its settings back."""

_log = logging.getLogger("steadynorm_audit")
_log.propagate = False
_log.setLevel(logging.CRITICAL + 1)
_server_log = logging.getLogger(__name__)
_SAY_EVERY_S = 60.0
_said_at = -math.inf  # monotonic seconds
listeners: list[Callable[[str, str], object]] = []
"""Called with the run's name and the line, whether or not there is a file."""
_on_unwritten: Callable[[], object] = lambda: None  # noqa: E731 # replaced by each application


class _Lines(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 # the base class' name
        """Raise what kept the line from being written, for `record` to count."""
        raise  # logging calls this while it handles the error


class _FileLines(_Lines, WatchedFileHandler):
    pass


def configure(target: str) -> None:
    """Write the lines there; empty: nowhere. Raises StartError."""
    for handler in list(_log.handlers):
        _log.removeHandler(handler)
        with contextlib.suppress(OSError):  # lines that a full disk did not take
            handler.close()
    if not target:
        _log.setLevel(logging.CRITICAL + 1)
        return
    try:
        made: logging.Handler = _Lines(sys.stdout) if target == "-" else _FileLines(target, encoding="utf-8")
    except OSError as error:
        raise StartError(
            f"STEADYNORM_AUDIT_LOG must be `-` or a file that can be written: {target}: {error.strerror}."
        ) from error
    _log.addHandler(made)
    _log.setLevel(logging.INFO)


def count_unwritten(on_unwritten: Callable[[], object]) -> None:
    """Call this for each line that cannot be written."""
    global _on_unwritten
    _on_unwritten = on_unwritten


def record(kind: Kind, run_id: str, actor: str, **what: object) -> None:
    """Write one line. what: of JSON's types, or our structs. Never raises: what it tells of is done already."""
    global _said_at
    if not listeners and not _log.isEnabledFor(logging.INFO):
        return
    try:
        line = _encoded({"time": time.time(), "kind": kind, "run_id": run_id, "actor": actor, **what})
        for listener in listeners:
            listener(str(what.get("name", "")), line)
        _log.info("%s", line)
    except Exception as error:
        _on_unwritten()
        if time.monotonic() - _said_at >= _SAY_EVERY_S:
            _said_at = time.monotonic()
            _server_log.error("STEADYNORM_AUDIT_LOG cannot be written, and what is done is missing there: %s", error)


def _encoded(line: dict[str, object]) -> str:
    # Half a surrogate pair, which a name may hold, is no UTF-8.
    clean = msgspec.to_builtins(line)
    try:
        return msgspec.json.encode(clean).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(_escaped(clean)).decode()


def _escaped(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_escaped(key): _escaped(each) for key, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list) else value
