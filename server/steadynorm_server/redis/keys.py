"""All key names. A run's keys share one hash tag, so that they are in one cluster slot."""

from __future__ import annotations

import re

INDEX = "steadynorm:runs"
"""Sorted set of run ids by start. Can be rebuilt from the runs themselves."""

CHANGES = "steadynorm:changes"
"""Channel on which the id of a run is published whenever its desired settings changed."""

SCAN_PATTERN = "steadynorm:{*}:run"

PROBE = "steadynorm:probe"
"""Never written: the health check only asks whether it could be."""

_RUN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_RUN_KEY = re.compile(r"steadynorm:\{([^}]*)\}:run")


def is_run_id(text: str) -> bool:
    """Whether `text` is a valid run id: [a-z0-9][a-z0-9._-]{0,99}."""
    return _RUN_ID.fullmatch(text) is not None


def run_id_of(key: str) -> str | None:
    """The run whose main hash `key` is."""
    match = _RUN_KEY.fullmatch(key)
    return match[1] if match and is_run_id(match[1]) else None


class RunKeys:
    """Names of one run's keys.

    run         hash: description, desired and applied settings, state of its history
    parameters  string: the parameter table, as registered
    peaks       string: per parameter the largest spike ratio and the number of spikes
    events, audit    streams of JSON
    outcomes    hash: revision to the agent's report on it
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
    """Names of the keys of webhooks; all in one cluster slot, so that a script may use several.

    since       string: when webhooks were first sent, Unix ms; no older event is
    cursors     hash: run id to the last of its events that was appended to queues
    sweep       string, exists until the next look at all runs is due
    queue(name)      stream of JSON with a consumer group: the first events of each run and kind
    counts(name)     hash: "kind run_id run's name" to how many wait in all
    pause(name)      string, exists until the webhook's next message may be made
    """

    _base = "steadynorm:webhooks:{webhooks}:"  # of no run: theirs have the braces right after the first colon
    since, cursors, sweep = _base + "since", _base + "cursors", _base + "sweep"

    @classmethod
    def queue(cls, name: str) -> str:
        """Events of one webhook that are not delivered."""
        return f"{cls._base}queue:{name}"

    @classmethod
    def counts(cls, name: str) -> str:
        """Numbers of events that wait for one webhook."""
        return f"{cls._base}counts:{name}"

    @classmethod
    def pause(cls, name: str) -> str:
        """Whether one webhook's interval runs."""
        return f"{cls._base}pause:{name}"
