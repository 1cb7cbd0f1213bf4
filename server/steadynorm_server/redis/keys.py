"""All key names. A run's keys share one hash tag, so that they are in one cluster slot."""

import re

INDEX = "steadynorm:runs"
"""Sorted set of run ids by start. Can be rebuilt from the runs themselves."""

LIVE = "steadynorm:{steadynorm:runs}:live"
"""Sorted set of runs that have not ended, by start. Its braces hold the name of the index: both are in one slot."""

TOUCHED = "steadynorm:{steadynorm:runs}:touched"
"""Stream of runs that began, ended or were changed by other than telemetry: processes read them again for lists."""

CHANGES = "steadynorm:changes"
"""Channel on which the id of a run is published whenever its desired settings changed."""

LOOK = "look:"
"""Before the id, in that channel: somebody looks at the run."""

SCAN_PATTERN = "steadynorm:{*}:run"

PROBE = "steadynorm:probe"
"""Never written: the health check only asks whether it could be."""


def quota_key(token: str) -> str:
    """Sorted set of the runs that a token with a quota has registered, by when."""
    return f"steadynorm:quota:{token}"


def budget_key(token: str) -> str:
    """Hash of the changes that a token with a budget has made today."""
    return f"steadynorm:budget:{token}"


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
    configuration    string: what the run was started with, as JSON
    peaks       string: per parameter the largest spike ratio and the number of spikes
    events, audit    streams of JSON
    notes       stream of JSON
    outcomes    hash: revision to the agent's report on it
    history(level)   stream of binary blocks
    """

    def __init__(self, run_id: str) -> None:
        self._base = f"steadynorm:{{{run_id}}}:"
        self.run = self._base + "run"
        self.parameters = self._base + "parameters"
        self.configuration = self._base + "configuration"
        self.peaks = self._base + "peaks"
        self.events = self._base + "events"
        self.audit = self._base + "audit"
        self.notes = self._base + "notes"
        self.outcomes = self._base + "outcomes"

    def history(self, level: str) -> str:
        """The stream of one level of the history."""
        return f"{self._base}history:{level}"


class WebhookKeys:
    """Names of the keys of webhooks; all in one cluster slot, so that a script may use several.

    since       string: when webhooks were first sent, Unix ms; no older event is
    cursors     hash: run id to the last of its events that was appended to queues
    sweep       string, exists until the next look at runs of all processes is due
    queue       of one webhook, stream of JSON with a consumer group: the first events of each run and kind
    counts      of one webhook, hash: "kind run_id run's name" to how many wait in all
    pause       of one webhook, string, exists until its next message may be made
    """

    _base = "steadynorm:webhooks:{webhooks}:"  # of no run: theirs have the braces right after the first colon
    since, cursors, sweep = _base + "since", _base + "cursors", _base + "sweep"

    def __init__(self, name: str) -> None:
        self.queue = f"{self._base}queue:{name}"
        self.counts = f"{self._base}counts:{name}"
        self.pause = f"{self._base}pause:{name}"
