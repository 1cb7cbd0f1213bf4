"""The built distributions, and clean environments that hold a wheel with what one extra declares."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import cast

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement


@dataclass(frozen=True)
class Built:
    """The two files of a release."""

    wheel: Path
    sdist: Path


@dataclass(frozen=True)
class CleanEnvironment:
    """A virtual environment without pip, in which nothing is installed that was not declared."""

    folder: Path

    @property
    def site_packages(self) -> Path:
        """Where its packages lie."""
        return next((self.folder / "lib").glob("python3*/site-packages"))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one of its programs, without this process's variables."""
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
        return subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=self.folder, env={**kept, "PATH": os.defpath, "HOME": str(self.folder), "COLUMNS": "200"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def python(self, code: str) -> str:
        """What the code prints; it must end well."""
        ended = self.run("python", "-W", "error::ImportWarning", "-c", code)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def has(self, module: str) -> bool:
        """Whether a module can be imported there."""
        return (
            self.python(f"from importlib.util import find_spec; print(find_spec({module!r}) is not None)") == "True\n"
        )


@pytest.fixture(scope="session")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    ended = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)],
        cwd=root, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="session")
def install(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., CleanEnvironment]:
    """install("server") -> an environment with the wheel and all that `steadynorm[server]` asks for.

    Needs no network: the wheel is installed, and of this process's environment those distributions are linked that the
    wheel's own metadata asks for, and what they ask for in turn. What is not declared is not there.
    """

    def make(*extras: str) -> CleanEnvironment:
        environment = CleanEnvironment(tmp_path_factory.mktemp("-".join(extras) or "base"))
        venv.create(environment.folder, symlinks=True)
        python = str(environment.folder / "bin" / "python")
        subprocess.run(
            ["uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, str(built.wheel)],
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}, check=True, timeout=60,
        )  # fmt: skip
        (metadata,) = environment.site_packages.glob("steadynorm-*.dist-info")
        for needed in required(Distribution.at(metadata), frozenset(extras), {}).values():
            link(needed, environment.site_packages)
        return environment

    return make


def required(by: Distribution, extras: frozenset[str], found: dict[str, Distribution]) -> dict[str, Distribution]:
    """Adds to `found` the distributions that one with these extras asks for, directly or not."""
    markers = cast("dict[str, str]", default_environment())
    for requirement in map(Requirement, by.requires or []):
        asked = requirement.marker is None or any(
            requirement.marker.evaluate({**markers, "extra": extra}) for extra in extras or {""}
        )
        key = f"{requirement.name}[{','.join(sorted(requirement.extras))}]".lower()
        if asked and key not in found:
            found[key] = distribution(requirement.name)
            assert requirement.specifier.contains(found[key].version, prereleases=True), f"{requirement}"
            required(found[key], frozenset(requirement.extras), found)
    return found


def link(needed: Distribution, site_packages: Path) -> None:
    """Link what a distribution installed, whole folders at a time."""
    assert needed.files, f"{needed.name} does not say what it installed"
    for name in {file.parts[0] for file in needed.files} - {"..", "__pycache__"}:
        place = site_packages / name
        if not place.exists():
            place.symlink_to(Path(str(needed.locate_file(name))))
