"""Publishers whose training code dropped the optimizers without closing the agent, and that have not ended yet."""

from __future__ import annotations

from typing import Protocol


class Ends(Protocol):
    """As much of a publisher as is needed here."""

    def wait_until_ended(self) -> None: ...


publishers: set[Ends] = set()


def wait_for_abandoned() -> None:
    """The process is about to end: let them send what is left."""
    for publisher in list(publishers):
        publisher.wait_until_ended()


def forget_abandoned() -> None:
    """In a forked child: their threads are the parent's."""
    publishers.clear()
