"""The error that ends a command with one sentence, and how what others wrote is told."""


class CommandError(Exception):
    """A command cannot do what was requested. The text says why and what to do; `code` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def plain(text: str) -> str:
    """Text of others for a terminal: control characters are escaped."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
