"""The shell completes commands and the values of options."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.commands import Command


def test_the_shell_completes_commands_and_kinds(steadynorm: Command) -> None:
    assert "--install-completion" in steadynorm("--help").stdout

    def complete(words: str) -> list[str]:
        """What bash would be offered for the last word."""
        asked = {"_STEADYNORM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return steadynorm(**asked).stdout.split()

    assert complete("steadynorm ev") == ["events"]
    assert complete("steadynorm events gpt --kind rank_") == ["rank_mismatch", "rank_failed"]
