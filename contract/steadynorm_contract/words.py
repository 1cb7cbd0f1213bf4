"""Numbers in sentences."""

__all__ = ["counted"]


def counted(number: int, what: str, several: str = "") -> str:
    """`1 step`, `1,200 steps`. several: the plural where it is not `what` with an s."""
    return f"{number:,} {what if number == 1 else several or what + 's'}"
