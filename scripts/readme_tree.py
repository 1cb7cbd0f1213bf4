"""Write the README's tree from the files themselves: the first sentence of each module's docstring.

python scripts/readme_tree.py [--check]
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- tree: made by scripts/readme_tree.py -->\n```text\n", "```\n<!-- end of the tree -->"

LONGEST = 84

SECTIONS = {
    "contract/steadynorm_contract": "what all agree on: standard library, msgspec, urllib3",
    "agent/steadynorm": "lives in the training process: torch, urllib3, contract",
    "server/steadynorm_server": "FastAPI over Redis, metrics, the command line: contract, never torch",
    "dashboard/steadynorm_dashboard": "Streamlit over the server's HTTP interface: contract, never torch",
    "examples": "what a user would write",
    "benchmarks": "what it costs and what it does, measured",
}
OTHERS = {
    "tests": {
        "agent, contract, server, dashboard": "each package by itself, against real stores, servers and browsers",
        "command_line, deploy, end_to_end": "the whole, as its users meet it",
        "study": "the study in a miniature, and its parts",
        "architecture": "import rules, public names, this tree",
    },
    "deploy": {
        "prometheus": "scrape configuration, alert rules and their tests, whom to tell",
        "grafana": "provisioning, and the dashboards as code",
    },
    "docs": {
        "algorithm.md": "the rule, the bound on spikes, bumpless transfer",
        "architecture.md": "parts, boundaries, what travels between them",
        "guides.md, migrating.md": "attaching to your loop or trainer; coming from other tools",
        "command-line.md": "every command, with exit codes",
        "notebooks.md": "a run as Parquet: what is in it, and pandas over it",
        "dashboard.md": "its pages in pictures: what stands where, and what a click does",
        "fleet.md": "the page of all runs: health in words, finding, keys, who may do what",
        "retention.md": "what is kept of a run, how much and for how long",
        "operations.md": "what to do when an alert fires",
        "deploying.md": "tokens, Compose, variables",
        "study.md": "does it stabilize, and when: eight questions, other methods beside it, advice",
        "measurements.md": "figures, with the commands that give them",
        "decisions, log.md": "why it is as it is, and what did not work",
    },
    "scripts": {
        "demo": "environment, house and a training run in one command",
        "test": "everything that CI runs: installs what it needs, checks, tests",
        "check": "ruff and mypy",
        "environment": "makes .venv with one of the extras; the others call it",
        "screenshots.py": "takes the pictures in docs/images from a real run",
        "readme_tree.py": "writes this tree",
    },
}
FILES = {
    ".ci/run": "calls scripts/test",
    "pyproject.toml, constraints.txt": "one distribution with extras; the versions that were tested together",
    "Dockerfile, docker-compose.yml": "server and dashboard images; the whole with Redis, Prometheus and Grafana",
    ".env.example, .dockerignore, .gitignore": "the tokens that Compose wants; what stays out",
    "README.md, CHANGELOG.md, LICENSE": "this page, what changed, Apache-2.0",
}


def first_sentence(path: Path) -> str:
    """Of a module's docstring, without its full stop; of a long one what stands before the first colon or comma."""
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    sentence = " ".join(docstring.split("\n\n")[0].split()).split(". ")[0].rstrip(".")
    for sign in (": ", "; ", ", "):
        if len(sentence) > LONGEST and len(head := sentence.split(sign)[0]) > 30:
            sentence = head
    return sentence


def tree() -> str:
    """The whole tree, one line a file."""
    lines: list[str] = []
    for folder, about in SECTIONS.items():
        lines.append(f"{folder + '/':<34} {about}")
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT / folder))
            if path.name != "__init__.py":
                lines.append(f"    {name:<30} {first_sentence(path)}")
    for folder, entries in OTHERS.items():
        lines.append(f"{folder}/")
        lines += [f"    {name:<30} {about}" for name, about in entries.items()]
    lines += [f"{name:<34} {about}" for name, about in FILES.items()]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def renewed(readme: str) -> str:
    """The README with the tree as it should be."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + tree() + END + after


def main() -> int:
    path = ROOT / "README.md"
    readme = path.read_text("utf-8")
    if renewed(readme) == readme:
        return 0
    if "--check" in sys.argv:
        print("README.md's tree is not what the files say: run python scripts/readme_tree.py", file=sys.stderr)
        return 1
    path.write_text(renewed(readme), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
