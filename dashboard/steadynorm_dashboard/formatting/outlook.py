"""What follows from now on, in words: with a change of settings, and without it."""

from __future__ import annotations

from collections.abc import Sequence

from steadynorm_contract.forecast import HORIZONS, Outlook, throttled_words
from steadynorm_contract.settings import Mode, Settings
from steadynorm_dashboard.formatting import escaping, numbers


def headline(without: Sequence[Outlook], changed: Sequence[Outlook], now: Settings) -> str:
    """How long throttling lasts under the changed settings `now`, beside how long it would last. Markdown."""
    before, after = longest(without), longest(changed)
    if before == 0 and after == 0:
        return "Nothing is throttled, and nothing will be while norms stay as they are."
    unchanged = f"without this change: {throttled_words(before, was=False)}"
    if now.mode is not Mode.STABILIZE:
        return f"In {now.mode}, targets do not act on gradients ({unchanged})."
    if after == 0:
        return f"**Throttling ends at once** ({unchanged})."
    words = throttled_words(after, was=before != 0)
    return f"**{words[:1].upper()}{words[1:]}** ({unchanged})."


def longest(outlooks: Sequence[Outlook]) -> int | None:
    """Steps until no tensor is throttled; None: one of them stays so."""
    lasting = [each.throttled_for for each in outlooks]
    return None if None in lasting else max((steps for steps in lasting if steps is not None), default=0)


def rows(without: Sequence[Outlook], changed: Sequence[Outlook]) -> list[dict[str, str]]:
    """One row per tensor; each cell says `as it is → with the change`."""
    table = []
    for before, after in zip(without, changed, strict=True):
        row = {"parameter": escaping.visible(after.name, 200), "target now": numbers.number(before.target, 3)}
        for steps in HORIZONS:
            row[f"in {steps} steps"] = (
                f"{numbers.number(before.targets[steps], 3)} → {numbers.number(after.targets[steps], 3)}"
            )
        row["update size"] = " → ".join(f"×{numbers.number(each.sizes[HORIZONS[0]], 3)}" for each in (before, after))
        table.append(row)
    return table
