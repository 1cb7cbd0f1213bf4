"""What pages name exists: variables, metrics, alerts, routes, options, files, settings, conditions, links' targets."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from tests.docs.test_documentation_pages import program

from steadynorm_contract.changes import parse_assignments
from steadynorm_contract.conditions import parse_condition
from steadynorm_contract.knobs import Knob
from steadynorm_contract.settings import Settings, merge, resolve_increments
from steadynorm_server.config import IN_FILES, ServerConfig

FOREIGN = {
    "torchrun": {"--nproc-per-node"},
    "kubectl, helm": {"--from-literal", "--set"},
    "docker": {"--build-arg"},
    "redis-cli, py-spy": {"--latency", "--pid"},
    "pytest, mypy": {"--durations", "--strict"},
}
"""Options of programs that are not ours, and of which pages name some."""

KNOBS = [
    Knob(name="entropy_coef", default=0.01, low=0, high=1),
    Knob(name="weight_decay", default=0.01, low=0, high=1, own=True),
]


@pytest.fixture(scope="module")
def written(root: Path) -> dict[str, str]:
    """The text of all that people write, by path; not of the changelog, which names what there was."""
    paths = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    texts = {str(path.relative_to(root)): path.read_text("utf-8") for path in sorted(paths)}
    del texts["CHANGELOG.md"]
    return texts


@pytest.fixture(scope="module")
def python(root: Path) -> str:
    """The source of agent, contract, command line and dashboard."""
    parts = ("agent", "contract", "cli", "dashboard")
    return "".join(path.read_text("utf-8") for part in parts for path in (root / part).rglob("*.py"))


def named(written: dict[str, str], pattern: str) -> Iterator[tuple[str, str]]:
    """(page, name) of all that a pattern finds."""
    for page, text in written.items():
        for name in sorted(set(re.findall(pattern, text))):
            yield page, name


def test_variables_exist_and_are_documented(written: dict[str, str], generated: dict[str, str], python: str) -> None:
    server = {f"STEADYNORM_{name.upper()}" for name in ServerConfig.model_fields}
    files = {f"STEADYNORM_{name.upper()}_FILE" for name in IN_FILES}
    others = set(re.findall(r'"(STEADYNORM_[A-Z_]+)"', python))
    known = server | files | others
    assert [found for found in named(written, r"\bSTEADYNORM_[A-Z_]*[A-Z]\b") if found[1] not in known] == []
    said = "".join([*written.values(), generated["reference/environment.md"]])
    assert [name for name in sorted((server | others) - files - {"STEADYNORM_REDIS_URL"}) if name not in said] == []


def test_metrics_exist(written: dict[str, str], generated: dict[str, str]) -> None:
    known = set(re.findall(r"^\| `(steadynorm_\w+)`", generated["reference/metrics.md"], re.MULTILINE))
    packages = {f"steadynorm_{part}" for part in ("contract", "server", "dashboard", "cli")}
    assert len(known) > 50
    assert [found for found in named(written, r"\bsteadynorm_[a-z_]+\b") if found[1] not in known | packages] == []


def test_alerts_exist_and_each_has_its_section(root: Path, written: dict[str, str]) -> None:
    groups = yaml.safe_load((root / "deploy" / "prometheus" / "rules.yml").read_text("utf-8"))["groups"]
    rules = [(group["name"], rule) for group in groups for rule in group["rules"] if "alert" in rule]
    alerts = {rule["alert"] for _, rule in rules}
    assert [found for found in named(written, r"\bSteadynorm[A-Z]\w+") if found[1] not in alerts] == []
    begin, *_ = written["docs/operations.md"].split("\n## ")
    critical = {rule["alert"] for _, rule in rules if rule["labels"]["severity"] == "critical"}
    assert set(re.findall(r"`(Steadynorm\w+)`", begin)) == critical
    sections = re.findall(r"^## (Steadynorm\w+)$", written["docs/operations.md"], re.MULTILINE)
    assert sorted(sections) == sorted(alerts)
    of_service = sections[sections.index("SteadynormServerDown") :]
    assert set(of_service) == {rule["alert"] for group, rule in rules if group == "steadynorm-service"}


def test_routes_and_their_parameters_exist(written: dict[str, str], reference: ModuleType) -> None:
    def shape(path: str) -> str:
        return re.sub(r"\{\w+\}", "{}", path.removeprefix("/api/v1"))

    known = {
        (method.upper(), shape(path)): {each["name"] for each in operation.get("parameters", [])}
        for path, method, operation in reference.operations(reference.openapi())
    }
    problems, count = [], 0
    for page, text in written.items():
        for method, route in re.findall(r"\b(GET|POST|PUT|PATCH|DELETE) +(/(?:api|runs|fleet|me|events)[^\s`]*)", text):
            path, _, query = route.partition("?")
            parameters = known.get((method, shape(path)))
            given = {part.partition("=")[0] for part in query.split("&") if part}
            count += 1
            if parameters is None or not given <= parameters:
                problems.append(f"{page}: {method} {route}")
    assert count > 20
    assert problems == []


def test_options_exist(root: Path, written: dict[str, str], reference: ModuleType) -> None:
    ours = {
        name
        for _, command in reference.walk(program())
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    } | {"--version", "--install-completion", "--show-completion", "--help"}
    folders = ("benchmarks", "scripts", "research", "tests/study")
    programs = "".join(
        path.read_text("utf-8") for folder in folders for path in (root / folder).rglob("*") if _is_program(path)
    )
    known = ours | set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", programs)) | set().union(*FOREIGN.values())
    of_a_proxy = re.compile(r"^ +oauth2-proxy(?:.*\\\n)*.*$|--pass-user-headers", re.MULTILINE)
    pages = {page: of_a_proxy.sub("", text) for page, text in written.items()}
    assert [found for found in named(pages, r"(?<![\w-])--[a-z][a-z-]+[a-z]") if found[1] not in known] == []
    for page, text in pages.items():
        for name, rest in re.findall(r"python (benchmarks/[\w/.]+)([^`\n]*)", text):
            program_file = root / name / "__main__.py" if (root / name).is_dir() else root / name
            source = program_file.read_text("utf-8")
            assert [each for each in re.findall(r"--[a-z-]+", rest) if f'"{each}"' not in source] == [], (page, name)


def _is_program(path: Path) -> bool:
    return path.suffix == ".py" or (path.parent.name == "scripts" and path.is_file() and not path.suffix)


def test_files_exist(root: Path, written: dict[str, str]) -> None:
    folders = "agent|server|contract|cli|dashboard|deploy|examples|docs|benchmarks|research|scripts|tests"
    found = named(written, rf"[`(\s]((?:{folders})/[\w./-]*\w)")
    assert [(page, name) for page, name in found if not (root / name).exists()] == []
    tests = {path.name for path in (root / "tests").rglob("test_*.py")}
    assert [(page, name) for page, name in named(written, r"`(test_\w+\.py)`") if name not in tests] == []


def test_links_of_pages_outside_the_site_lead_somewhere(root: Path, written: dict[str, str]) -> None:
    problems = []
    for page in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", written[page]):
            name, _, anchor = target.partition("#")
            if name.startswith("https:"):
                continue
            if not (root / name).exists() or (anchor and anchor not in _anchors(written[name or page])):
                problems.append(f"{page}: {target}")
    assert problems == []


def test_the_readme_leads_to_every_page(root: Path, written: dict[str, str]) -> None:
    pages = {path.name for path in (root / "docs").glob("*.md")} - {"index.md"}
    assert pages - set(re.findall(r"\]\(docs/([\w-]+\.md)", written["README.md"])) == set()


def test_extras_that_pages_name_exist_and_installation_lists_them(root: Path, written: dict[str, str]) -> None:
    extras = set(tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    given = [(page, name) for page, names in named(written, r"\[([a-z0-9,-]+)\]'") for name in names.split(",")]
    assert len(given) > 8
    assert [found for found in given if found[1] not in extras] == []
    listed = re.findall(r"^\| (`[a-z].*?) \| ", written["docs/install.md"], re.MULTILINE)
    names = {name for cell in listed for name in re.findall(r"`([a-z][a-z0-9-]+)`", cell)}
    assert extras - {"dev", "docs", "study"} == names  # those are for developers


def _anchors(text: str) -> set[str]:
    named = set(re.findall(r"\{ #([\w-]+) \}", text))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return named | {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_settings_in_commands_are_ones_that_a_run_takes(written: dict[str, str]) -> None:
    problems, count = [], 0
    for page, text in written.items():
        for line in re.findall(r"steadynorm (?:set|set-many|schedule|rules) ([^`\n]*)", text):
            words = re.sub(r"#.*|--[\w-]+(?: +(?:\"[^\"]*\"|'[^']*'|[^\s-]\S*))?", "", line).split()
            changes = [word for word in words if re.fullmatch(r"[\w.]+=[\w.+-]+", word)]
            count += len(changes)
            try:
                if changes:
                    merge(Settings(), resolve_increments(parse_assignments(" ".join(changes)), Settings()), KNOBS)
            except ValueError as error:
                problems.append(f"{page}: {line}: {error}")
    assert problems == []
    assert count > 40


def test_conditions_on_pages_are_ones_that_a_rule_takes(written: dict[str, str]) -> None:
    found = list(named(written, r'--when "([^"]+)"'))
    assert len(found) > 8
    for _, text in found:
        parse_condition(text)


def test_findings_of_the_self_check_are_in_the_table_of_troubleshooting(root: Path, written: dict[str, str]) -> None:
    source = "".join(path.read_text("utf-8") for path in (root / "agent").rglob("*.py"))
    calls = re.findall(r'(?:_check\.report|self\.report|self\._report|_report_no_step)\(\s*f?"([a-z_]+)[" {]', source)
    names = {*calls, *re.findall(r'^CLIP_AFTER_STABILIZER = "(\w+)"', source, re.MULTILINE)} - {"settings"}
    assert len(names) > 15
    _, table = written["docs/troubleshooting.md"].split("{ #findings }")
    titles = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    told = {name for title in titles for name in re.findall(r"`([a-z_]+)", title)}
    assert names - told == set()
    assert [name for name in told if f'"{name}' not in source] == []
