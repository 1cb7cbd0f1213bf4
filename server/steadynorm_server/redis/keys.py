"""The only place that knows key names. A run's keys share one hash tag, so that they live in one cluster slot."""

from __future__ import annotations

import re

__all__ = ["CHANGES", "INDEX", "PROBE", "SCAN_PATTERN", "RunKeys", "WebhookKeys", "is_run_id", "run_id_of"]

INDEX = "steadynorm:runs"
"""Sorted set of run ids by start. Can be rebuilt from the runs themselves."""

CHANGES = "steadynorm:changes"
"""Channel on which the id of a run is published whenever its desired settings changed."""

SCAN_PATTERN = "steadynorm:{*}:run"

PROBE = "steadynorm:probe"
"""Never written: whether it could be is what is asked."""

_RUN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_RUN_KEY = re.compile(r"steadynorm:\{([^}]*)\}:run")


def is_run_id(text: str) -> bool:
    """Whether `text` may name a run: [a-z0-9][a-z0-9._-]{0,99}."""
    return _RUN_ID.fullmatch(text) is not None


def run_id_of(key: str) -> str | None:
    """The run whose main hash `key` is."""
    match = _RUN_KEY.fullmatch(key)
    return match[1] if match and is_run_id(match[1]) else None


class RunKeys:
    """Names of one run's keys.

    run         hash: who it is, desired and applied settings, where its history stands
    parameters  string: the parameter table, as registered
    peaks       string: per parameter the largest spike ratio and the number of spikes
    events, audit    streams of JSON
    outcomes    hash: revision to the agent's word on it
    history(level)   stream of binary blocks
    """

    def __init__(self, run_id: str) -> None:
        self._base = f"steadynorm:{{{run_id}}}:"
        self.run = self._base + "run"
        self.parameters = self._base + "parameters"
        self.peaks = self._base + "peaks"
        self.events = self._base + "events"
        self.audit = self._base + "audit"
        self.outcomes = self._base + "outcomes"

    def history(self, level: str) -> str:
        """The stream of one level of the history."""
        return f"{self._base}history:{level}"


class WebhookKeys:
    """Names of what webhooks need; all in one slot, so that a script may move events from one to another.

    lease       string: the process that sends, for as long as it does
    since       string: when webhooks were first sent, ms; no older event is
    cursors     hash: run id to the last of its events that was queued
    news        set: ids of runs with new events
    queue(name)      stream of JSON: events that wait to be in a message, the first ones of each run and kind
    counts(name)     hash: "kind run_id run's name" to how many wait in all
    gathered(name), gathered_counts(name)    the same, of the message that is being made
    message(name)    hash: the message that waits to be delivered
    """

    _base = "steadynorm:webhooks:{webhooks}:"  # of no run: theirs have the braces right after the first colon
    lease, since = _base + "lease", _base + "since"
    cursors, news = _base + "cursors", _base + "news"

    @classmethod
    def queue(cls, name: str) -> str:
        """Events of one webhook."""
        return f"{cls._base}queue:{name}"

    @classmethod
    def counts(cls, name: str) -> str:
        """How many wait for one webhook."""
        return f"{cls._base}counts:{name}"

    @classmethod
    def gathered(cls, name: str) -> str:
        """Events of its next message."""
        return f"{cls._base}gathered:{name}"

    @classmethod
    def gathered_counts(cls, name: str) -> str:
        """How many its next message tells of."""
        return f"{cls._base}gathered-counts:{name}"

    @classmethod
    def message(cls, name: str) -> str:
        """The message of one webhook."""
        return f"{cls._base}message:{name}"
