"""MkDocs hook: the reference pages, made from the code that they describe at each build. Nothing of them is committed.

`pages()` gives them as Markdown by path; tests/docs reads them as well.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every decision in the navigation."""
    decisions = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    background = next(section["Background"] for section in config.nav or [] if "Background" in section)
    background.append({"Decisions": [f"decisions/{name}" for name in decisions]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the changelog to the site."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> dict[str, str]:
    """Markdown by path below docs/."""
    return {
        "changelog.md": (ROOT / "CHANGELOG.md").read_text("utf-8").replace("](docs/", "]("),
        "reference/commands.md": commands(),
        "reference/environment.md": environment(),
        "reference/events.md": events(),
        "reference/http-api.md": http_api(),
        "reference/metrics.md": metrics(),
        "reference/python.md": python(),
        "reference/settings.md": settings(),
        "reference/signals.md": signals(),
        "reference/works-with.md": works_with(),
    }


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a cell may hold line breaks and vertical bars."""
    lines = [list(titles), *map(list, rows)]
    text = ["| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|---" * len(lines[0]) + "|", *text[1:]]) + "\n"


def member_docs(of: type) -> dict[str, str]:
    """What the source says of a class's attributes: the string below one, or the comment on its line."""
    source = textwrap.dedent(inspect.getsource(of))
    lines = source.splitlines()
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    names: list[str] = []
    for node in body.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found |= {name: node.value.value for name in names if name not in found}
            names = []
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            assert isinstance(target, ast.Name)
            names = [target.id]
            _, comment, words = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")
            if comment:
                found[target.id] = words
    return {name: inspect.cleandoc(text) for name, text in found.items()} | _listed_attributes(of)


def _listed_attributes(of: type) -> dict[str, str]:
    """The `Attributes:` or `Args:` section of a class's docstring."""
    found: dict[str, str] = {}
    flags = re.DOTALL | re.MULTILINE
    for section in re.findall(r"^(?:Attributes|Args):\n(.*?)(?:\n\n|\Z)", inspect.getdoc(of) or "", flags):
        found |= dict(re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", section, flags))
    return found


def python() -> str:
    """The public Python names; mkdocstrings fills in their signatures and docstrings."""
    import steadynorm
    from steadynorm_contract import client

    text = [
        "# Python API\n\n`import steadynorm` loads no torch; the first use of a name that needs it does. Shapes are in "
        "brackets, norms are L2 norms in float32 at least.\n"
    ]
    for title, objects in {
        "In the training process": (steadynorm.attach, steadynorm.Agent, steadynorm.GradientStabilizer),
        "Settings": (steadynorm.Settings, steadynorm.Mode),
        "From a program": (client.Client, *(getattr(client, name) for name in client.__all__ if name != "Client")),
    }.items():
        text.append(f"## {title}\n")
        text += [f"::: {each.__module__}.{each.__qualname__}\n" for each in objects]
    return "\n".join(text)


def settings() -> str:
    """All settings: default, rule, meaning."""
    from steadynorm_contract.changes import PRESETS
    from steadynorm_contract.settings import SETTING_RULES, Mode, Settings, Transfer, merge

    defaults, docs = merge(Settings(), {"preset": "robust"}), member_docs(Settings)
    rows = [
        (f"`{name}`", f"`{json.dumps(getattr(defaults, name))}`", rule, docs.get(name, ""))
        for name, (rule, _) in SETTING_RULES.items()
    ]
    text = [
        "# Settings\n\nAll of them can be changed while a run trains: `steadynorm set RUN gamma2=0.99`, the dashboard, "
        "or `PATCH /api/v1/runs/{run_id}/settings`. Server and agent both check every value. The defaults are "
        "those of `attach()`; `Settings()` and `GradientStabilizer` by themselves have the paper's, `preset=paper`.\n",
        table(("setting", "default", "rule", "meaning"), rows),
        "## Presets\n\nA preset is a name for several settings at once: `steadynorm set RUN preset=paper`. `robust` "
        "is what `attach()` begins with.\n",
        table(
            ("preset", "stands for"), ((f"`{name}`", f"`{json.dumps(dict(what))}`") for name, what in PRESETS.items())
        ),
    ]
    for enumeration in (Mode, Transfer):
        docs = member_docs(enumeration)
        text.append(f"## Values of `{enumeration.__name__.lower()}`\n\n{(enumeration.__doc__ or '').strip()}\n")
        text.append(table(("value", "meaning"), ((f"`{each.value}`", docs.get(each.name, "")) for each in enumeration)))
    return "\n".join(text)


def signals() -> str:
    """Every number that a run records."""
    from steadynorm_contract.signals import DERIVED, PARAMETER_SIGNALS, SCALARS, Signal

    def rows(these: Iterable[Signal]) -> Iterator[tuple[str, ...]]:
        for each in these:
            yield f"`{each.name}`", each.unit, each.description, f"`{each.metric}`" if each.metric else ""

    titles = ("signal", "unit", "meaning", "metric")
    return "\n".join([
        "# Signals\n\nCharts, tooltips, Parquet columns and metrics take their names, units and words from one "
        "catalogue, `steadynorm_contract.signals`. The unit *gradient* is that of the gradient itself; 1 is a ratio.\n",
        "## One value a step\n",
        table(titles, rows(SCALARS)),
        "## One value a parameter\n\nIn every tenth step (`detail_every`), and in the 64 steps around a spike or a "
        "non-finite gradient. A series has the name `SIGNAL/PARAMETER`.\n",
        table(titles, rows(PARAMETER_SIGNALS)),
        "## Computed from the others\n",
        table(titles, rows(DERIVED)),
    ])  # fmt: skip


def events() -> str:
    """The kinds of events."""
    from steadynorm_contract.events import EventKind

    docs = member_docs(EventKind)
    return (
        "# Events\n\nWhat happened in a run: `steadynorm events RUN`, the dashboard's tab *Events*, "
        "`GET /api/v1/runs/{run_id}/events`, and [webhooks](../webhooks.md), whose `kinds` are these names.\n\n"
        + table(("kind", "meaning"), ((f"`{kind.value}`", docs.get(kind.name, "")) for kind in EventKind))
    )


def metrics() -> str:
    """What /metrics exports, from the registries that answer it."""
    from steadynorm_server.metrics.exposition import render
    from steadynorm_server.metrics.instruments import ServerMetrics
    from steadynorm_server.otlp.sender import OtlpSender
    from steadynorm_server.webhooks.metrics import WebhookMetrics

    def rows(text: str) -> Iterator[tuple[str, str, str]]:
        help_of: dict[str, str] = {}
        for line in text.splitlines():
            if line.startswith("# HELP "):
                _, _, name, words = line.split(" ", 3)
                help_of[name] = words
            elif line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ", 3)
                if not name.endswith("_created"):
                    yield f"`{name}`", kind, help_of[name]

    registry = ServerMetrics(dashboard_url="https://steadynorm.example.org")
    WebhookMetrics(registry.own, ["name"])
    nothing: Any = None
    OtlpSender(nothing, nothing, registry.own)
    own = registry.exposition(0).decode()
    titles = ("metric", "type", "meaning")
    return "\n".join([
        "# Metrics\n\n`GET /metrics` in Prometheus' text format, or as OpenMetrics where the request accepts it. "
        "Beyond loopback it needs a viewer's token (`STEADYNORM_METRICS_AUTH`). Alert rules: `deploy/prometheus`; "
        "Grafana's dashboards: `deploy/grafana`.\n",
        "## Of runs\n\nLabels: `run` and `run_id`. A run's series disappear when it ends.\n",
        table(titles, rows(render([]).decode())),
        "## Of the server\n",
        table(titles, rows(own)),
    ])  # fmt: skip


def environment() -> str:
    """The server's variables."""
    from steadynorm_server.config import ServerConfig

    docs = member_docs(ServerConfig)
    rows = []
    for name, field in ServerConfig.model_fields.items():
        variable = "REDIS_URL" if name == "redis_url" else f"STEADYNORM_{name.upper()}"
        default = "" if field.default is None or field.is_required() else f"`{field.default}`"
        if field.default_factory is not None:
            default = "`~/.steadynorm`"
        rows.append((f"`{variable}`", "" if default in ("``", "`PydanticUndefined`") else default, docs.get(name, "")))
    return (
        "# Environment variables of the server\n\n`steadynorm server` and `steadynorm up` read these; an option of the "
        "command line wins over its variable. A wrong value stops the start with the variable's name.\n\nTokens and "
        "the address of Redis can be in files instead, which variables with `_FILE` at their ends name.\n\n"
        + table(("variable", "default", "meaning"), rows)
    )


def commands() -> str:
    """Every command with its arguments and options, from Typer."""
    import typer

    from steadynorm_cli.commands import app

    text = [
        "# Commands and options\n\nAll that `steadynorm --help` and `steadynorm COMMAND --help` print. How they are "
        "used together, and the exit codes: [The command line](../command-line.md).\n"
    ]
    for words, command in walk(typer.main.get_command(app)):
        context = command.context_class(command, info_name=" ".join(words))
        records = [(each, each.get_help_record(context)) for each in command.params]
        rows = [
            (f"`{record[0]}`" if record else f"`{each.name.upper()}`", record[1] if record else "")
            for each, record in records
            if each.name != "help"
        ]
        text.append(f"## {' '.join(words)} {{ #{'-'.join(words)} }}\n\n{inspect.cleandoc(command.help or '')}\n")
        text.append(f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n")
        if rows:
            text.append(table(("argument or option", "meaning"), rows))
    return "\n".join(text)


def walk(command: Any, words: tuple[str, ...] = ("steadynorm",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that call it."""
    children = getattr(command, "commands", None)
    if children is None:
        yield words, command
        return
    for name, child in children.items():
        yield from walk(child, (*words, name))


def http_api() -> str:
    """The HTTP interface, from the document that the server answers at /openapi.json."""
    document = openapi()
    schemas = document["components"]["schemas"]
    text = [
        "# HTTP API\n\nThe same, for machines, is at `/openapi.json` of every server, and to be tried out at `/docs`. "
        "Send `Authorization: Bearer TOKEN`. Errors are problem JSON (RFC 9457), with `request_id` for the server's "
        "log. Paging and compatibility: [Scaling](../scaling.md#http).\n",
        table(
            ("", "route", "what it does"),
            (
                (f"`{method.upper()}`", f"[`{path}`](#{anchor(method, path)})", sentence(operation))
                for path, method, operation in operations(document)
            ),
        ),
    ]
    for path, method, operation in operations(document):
        text.append(f"## {method.upper()} {path} {{ #{anchor(method, path)} }}\n\n{operation.get('description', '')}\n")
        if operation.get("parameters"):
            text.append(table(("parameter", "in", "type", "meaning"), map(parameter_row, operation["parameters"])))
        for media, content in operation.get("requestBody", {}).get("content", {}).items():
            text.append(f"Body, `{media}`: {shape(content.get('schema', {}))}.\n")
        text.append(table(("answer", "", "body"), map(response_row, operation["responses"].items())))
    text.append("## Shapes\n")
    for name, schema in schemas.items():
        about, _, _ = schema.get("description", "").partition("\n\n")
        text.append(f"### {name}\n\n{' '.join(about.split())}\n")
        if "enum" in schema:
            text.append("One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".\n")
        if schema.get("properties"):
            text.append(table(("field", "type", "", "meaning"), property_rows(schema)))
    return "\n".join(text)


def works_with() -> str:
    """What steadynorm was tried with, from the table that tests run."""
    known = tomllib.loads((ROOT / "docs" / "works_with.toml").read_text("utf-8"))
    loops = {"closure": "with a closure", "create_graph": "`backward(create_graph=True)`", "two_phase": "two phases"}

    def optimizers() -> Iterator[tuple[str, ...]]:
        for row in known["optimizer"]:
            notes = [loops.get(row.get("loop", ""), ""), row.get("note", "").replace("](", "](../")]
            yield (
                row["library"],
                ", ".join(row["names"]),
                f"`{row['attach']}`" if "attach" in row else "the optimizer",
                f"`{row.get('mode', 'stabilize')}`",
                "; ".join(filter(None, notes)),
            )

    def programs() -> Iterator[tuple[str, ...]]:
        for row in known["program"]:
            yield row["name"], row["how"].replace("](", "](../")

    return "\n".join([
        "# Does it work with …?\n\nThe tests try each row at each commit, on the CPU: a small model is trained under "
        "the agent. In `stabilize` the optimizer's step must begin with the target as the norm of each gradient; in "
        "`observe` the trained model must be the same as without the agent, bit for bit. What is not here works if "
        "it reads `.grad` in `step()` of a `torch.optim.Optimizer`; `tests/docs/works_with.py` shows how to try it.\n",
        "## Programs and frameworks\n",
        table(("program", "how"), programs()),
        "## Optimizers\n\n*mode* is that of an `attach()` which names none.\n",
        table(("library", "optimizers", "pass", "mode", "note"), optimizers()),
    ])  # fmt: skip


def openapi() -> dict[str, Any]:
    """The server's own document; no server is started."""
    from steadynorm_server.app import create_app
    from steadynorm_server.auth.tokens import Tokens
    from steadynorm_server.config import ServerConfig

    return create_app(ServerConfig(data=Path("/nonexistent")), "redis://nowhere", Tokens.single("x")).openapi()


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(path, method, operation) of each."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def anchor(method: str, path: str) -> str:
    """Where an operation is on its page."""
    words = path.removeprefix("/api/v1").replace("{", "").replace("}", "").strip("/").replace("/", "-")
    return f"{method}-{words}".replace("_", "-")


def sentence(operation: Mapping[str, Any]) -> str:
    """The first sentence of an operation's description."""
    text = " ".join(operation.get("description", operation.get("summary", "")).split())
    return text.split(". ")[0].rstrip(".") + "." if text else ""


def parameter_row(parameter: Mapping[str, Any]) -> tuple[str, ...]:
    """A parameter of the path, the query or a header."""
    required = "" if parameter.get("required") else " (optional)"
    return (
        f"`{parameter['name']}`",
        parameter["in"] + required,
        shape(parameter["schema"]),
        parameter.get("description", ""),
    )


def response_row(response: tuple[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """An answer by its status."""
    status, what = response
    bodies = [f"`{media}` {shape(content.get('schema', {}))}" for media, content in what.get("content", {}).items()]
    return f"`{status}`", what.get("description", ""), ", ".join(bodies)


def property_rows(schema: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The fields of a shape."""
    for name, field in schema["properties"].items():
        need = "required" if name in schema.get("required", ()) else ""
        if "default" in field:
            need = f"default `{json.dumps(field['default'])}`"
        yield f"`{name}`", shape(field), need, field.get("description", "")


def shape(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words, with links to the shapes that it names."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(shape(each) for each in schema.get("anyOf", schema.get("oneOf")))
    if schema.get("type") == "array":
        return f"list of {shape(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {shape(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))
