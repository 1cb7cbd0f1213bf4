"""The repository's files as a whole: what none of them may hold, and what the README says is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

FORBIDDEN = {
    "a home folder of one machine": re.compile(r"(?<![\w.~])/(?:home|Users)/[a-z]\w*/"),
    "an account's root folder": re.compile(r"(?<![\w.~])/root/"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a token": re.compile(r"\b(?:ghp|gho|glpat|xox[bp])[-_]\w{16,}"),
    "a merge conflict": re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE),
}

SCRIPTS = ("check", "demo", "docs", "environment", "release", "requirements", "test")


def tracked(root: Path) -> list[Path]:
    """Every file that is in the repository, or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    return [root / name for name in listed.split("\0") if name and (root / name).is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(root: Path, what: str) -> None:
    files = [path for path in tracked(root) if path != Path(__file__) and path.suffix not in (".png", ".bin")]
    assert len(files) > 50
    holders = [
        str(path.relative_to(root)) for path in files if FORBIDDEN[what].search(path.read_text("utf-8", "replace"))
    ]
    assert holders == []


def test_no_source_file_is_longer_than_400_lines(root: Path) -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in tracked(root) if path.suffix == ".py"}
    assert len(lengths) > 50
    assert {str(path.relative_to(root)): length for path, length in lengths.items() if length > 400} == {}


def test_scripts_can_be_run_and_stop_at_the_first_error(root: Path) -> None:
    for name in (*(f"scripts/{script}" for script in SCRIPTS), ".ci/run"):
        path = root / name
        assert path.stat().st_mode & 0o111, f"{name} is not executable"
        text = path.read_text("utf-8")
        assert text.startswith("#!/usr/bin/env bash\n")
        assert "\nset -e" in text, f"{name} goes on after an error"
        subprocess.run(["bash", "-n", str(path)], check=True, timeout=30)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_say_what_they_do_and_take_no_unknown_option(root: Path, tmp_path: Path, script: str) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(root / "scripts" / script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)

    text = (root / "scripts" / script).read_text("utf-8")
    first = text.splitlines()[1].removeprefix("# ")
    for option in ("--help", "-h"):
        shown = call(option)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout.startswith(first)
        assert "set -e" not in shown.stdout
    if "Arguments go to" not in shown.stdout:
        refused = call("--helpp")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "--helpp" in refused.stderr
        assert refused.stderr.endswith(f"see scripts/{script} --help\n")


def test_links_between_pages_lead_somewhere(root: Path) -> None:
    pages = [path for path in tracked(root) if path.suffix == ".md"]
    links = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text("utf-8"))
        if "://" not in target and "reference/" not in target  # generated: `mkdocs build --strict` checks those
    ]
    assert len(links) >= 2
    assert [f"{page.relative_to(root)}: {link}" for page, link in links if not (page.parent / link).exists()] == []
