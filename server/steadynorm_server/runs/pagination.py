"""Filter, order and pages of GET /runs."""

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from steadynorm_contract.codec import encode_json
from steadynorm_contract.lifecycle import Visibility
from steadynorm_contract.runs import Health, RunState
from steadynorm_server.errors import invalid
from steadynorm_server.runs.rows import HEALTHS, STATES, Column
from steadynorm_server.runs.view import VISIBILITIES, Mask, RunPlace, View

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
    visibility: tuple[Visibility, ...] = ()  # none: listed ones
    sort: Sort = "-started"
    limit: int | None = None
    cursor: str | None = None
    visible: tuple[str, ...] | None = None  # patterns of registered names: what the token is bound to

    def page(self, view: View) -> tuple[list[str], str | None]:
        """The ids on the requested page, and the cursor of the next. Raises a 422 problem for an invalid cursor."""
        field, backwards = self.sort.removeprefix("-"), self.sort.startswith("-")
        # Ties are sorted by run_id, so that a page ends at a definite run.
        chosen = view.ascending(np.flatnonzero(self.matching(view)), field)
        if self.cursor is not None:
            last = _decode(self.cursor, self.sort)
            chosen = view.before(chosen, field, last) if backwards else view.after(chosen, field, last)
        ordered = chosen[::-1] if backwards else chosen
        if self.limit is None or len(ordered) <= self.limit:
            return view.ids(ordered), None
        shown = ordered[: self.limit]
        return view.ids(shown), _encode(self.sort, view.place(shown[-1], field))

    def matching(self, view: View) -> Mask:
        """Which runs pass the filter."""
        return self.matching_now(view) & self.matching_words(view)

    def matching_now(self, view: View) -> Mask:
        """Which runs pass the filter's parts that change with time."""
        wanted = _among(view.visibility, VISIBILITIES, self.visibility or (Visibility.LISTED,))
        if self.states:
            wanted &= _among(view.state, STATES, self.states)
        if self.healths:
            wanted &= _among(view.health, HEALTHS, self.healths)
        return wanted

    def matching_words(self, view: View) -> Mask:
        """Which runs pass the others: by name, tags, and what the token may read."""
        wanted = view.named(self.name) & view.visible(self.visible)
        for tag in self.tags:
            key, separator, value = tag.partition("=")
            wanted &= view.tagged(key, value if separator else None)
        return wanted


class _Cursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    sort: str
    value: float | str
    run_id: str


def _among(column: Column, known: Sequence[object], wanted: Iterable[object]) -> Mask:
    return np.isin(column, [known.index(each) for each in wanted])


def _encode(sort: str, place: RunPlace) -> str:
    return base64.urlsafe_b64encode(encode_json(_Cursor(sort, *place))).decode().rstrip("=")


def _decode(cursor: str, sort: str) -> RunPlace:
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=_Cursor)
        if found.sort == sort and isinstance(found.value, str) == sort.endswith("name"):
            return (found.value, found.run_id)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        pass
    message = "cursor must be the `next` of a response with the same sort. Start again without a cursor."
    raise invalid("cursor", "must be `next` of the previous page", message)
