"""How the help names values: `N`, `TEXT`, `running|stalled|…` rather than types of Python."""

import re
from typing import Any

from typer.core import TyperCommand

_NAMES = {"int": "N", "int range": "N", "float": "NUMBER", "float range": "NUMBER", "str": "TEXT", "path": "PATH"}


class Command(TyperCommand):
    """A command whose help can be read by people who do not write Python."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters; an option that was given no name for its value has one afterwards."""
        params: list[Any] = super().get_params(ctx)
        for param in params:
            if param.param_type_name == "option" and param.metavar is None:
                param.metavar = _named(param.display_type(ctx) or "")
        return params

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The arguments as man pages show them: `RUN`, `[TEXT]`, `NAME=VALUE...`."""
        pieces = (piece.replace("......", "...") for piece in super().collect_usage_pieces(ctx))
        return [re.sub(r"\.\.\.(\}|\])\.\.\.$", r"...\1", piece).strip("{}") for piece in pieces]


def _named(kind: str) -> str:
    """The name of a value of this kind; a flag has none."""
    inner = kind.removeprefix("<").removesuffix(">")
    inner = inner.removeprefix("list[").removesuffix("]")
    return "" if inner == "bool" else _NAMES.get(inner, inner)
