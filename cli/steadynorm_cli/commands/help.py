"""How the help names values: `N`, `TEXT`, `running|stalled|…` rather than types of Python."""

import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_NAMES = {"int": "N", "int range": "N", "float": "NUMBER", "float range": "NUMBER", "str": "TEXT", "path": "PATH"}


class Command(TyperCommand):
    """A command whose help can be read by people who do not write Python."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters, named for the help."""
        return _with_names(super().get_params(ctx), ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Its arguments. An error is without the words that pydantic begins it with."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The arguments as man pages show them: `RUN`, `[TEXT]`, `NAME=VALUE...`."""
        pieces = (piece.replace("......", "...") for piece in super().collect_usage_pieces(ctx))
        return [re.sub(r"\.\.\.(\}|\])\.\.\.$", r"...\1", piece).strip("{}") for piece in pieces]


class Group(TyperGroup):
    """A command that has commands, with the same help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters, named for the help."""
        return _with_names(super().get_params(ctx), ctx)


def _with_names(params: list[Any], ctx: Any) -> list[Any]:
    """The parameters: an argument has its name in capitals and no type, an option a name for its value."""
    for param in params:
        if param.param_type_name == "argument":
            param.metavar = param.metavar or param.name.upper()
            param.display_type_rich = lambda ctx: None
        elif param.metavar is None:
            param.metavar = _named(param.display_type(ctx) or "")
    return params


def _named(kind: str) -> str:
    """The name of a value of this kind; a flag has none."""
    inner = kind.removeprefix("<").removesuffix(">")
    inner = inner.removeprefix("list[").removesuffix("]")
    return "" if inner == "bool" else _NAMES.get(inner, inner)
