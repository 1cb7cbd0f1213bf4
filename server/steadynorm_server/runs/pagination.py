"""Filter, order and pages of GET /runs."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.runs import Health, RunList, RunState, RunSummary
from steadynorm_server.errors import invalid

MAX_RUNS = 1000
"""In one page. Without a limit, one page has all runs."""

Sort = Literal["-started", "started", "name", "-name", "-last_seen", "last_seen", "-step", "step"]


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list, in which order. None and the empty tuple match all."""

    states: tuple[RunState, ...] = ()
    healths: tuple[Health, ...] = ()
    name: str | None = None  # pattern with * and ?, of the whole name
    tags: tuple[str, ...] = ()  # `key` or `key=value`, all of them
    sort: Sort = "-started"
    limit: int | None = None
    cursor: str | None = None

    def page(self, runs: Sequence[RunSummary]) -> RunList:
        """The requested page of `runs`. Raises a 422 problem for an invalid cursor."""
        field, backwards = self.sort.removeprefix("-"), self.sort.startswith("-")
        # Ties are sorted by run_id, so that a page ends at a definite run.
        chosen = sorted(filter(self.matches, runs), key=lambda run: _place(run, field), reverse=backwards)
        if self.cursor is not None:
            after = _decode(self.cursor, self.sort)
            chosen = [
                run for run in chosen if (_place(run, field) < after if backwards else _place(run, field) > after)
            ]
        if self.limit is None or len(chosen) <= self.limit:
            return RunList(chosen)
        shown = chosen[: self.limit]
        return RunList(shown, _encode(self.sort, _place(shown[-1], field)))

    def matches(self, run: RunSummary) -> bool:
        """Whether the run passes the filter."""
        return (
            (not self.states or run.state in self.states)
            and (not self.healths or run.health in self.healths)
            and (self.name is None or fnmatchcase(run.name, self.name))
            and all(_tagged(run, tag) for tag in self.tags)
        )


class _Cursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    sort: str
    value: float | str
    run_id: str


def _place(run: RunSummary, field: str) -> tuple[float | str, str]:
    value: float | str = getattr(run, field)
    return (value, run.run_id)


def _tagged(run: RunSummary, tag: str) -> bool:
    key, separator, value = tag.partition("=")
    return key in run.tags and (not separator or run.tags[key] == value)


def _encode(sort: str, place: tuple[float | str, str]) -> str:
    return base64.urlsafe_b64encode(encode_json(_Cursor(sort, *place))).decode().rstrip("=")


def _decode(cursor: str, sort: str) -> tuple[float | str, str]:
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=_Cursor)
        if found.sort == sort and isinstance(found.value, str) == sort.endswith("name"):
            return (found.value, found.run_id)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        pass
    message = "cursor must be the `next` of a response with the same sort. Start again without a cursor."
    raise invalid("cursor", "must be `next` of the previous page", message)
