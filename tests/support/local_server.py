"""A server in a process of its own, found as a user's tools find theirs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.client import Client


@dataclass
class RunningStack:
    """A server in a process of its own, on a free loopback port."""

    home: Path
    server: str
    token: str
    client: Client
    environment: dict[str, str]
    """Variables for processes that shall find this stack as a user's tools do."""


def clean_environment(home: Path) -> dict[str, str]:
    """This process's variables without those that would point to another stack or store."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEADYNORM_")}
    kept.pop("REDIS_URL", None)
    return {**kept, "STEADYNORM_HOME": str(home)}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A server with its own embedded store, for the whole session. Runs of all tests that use it are in it."""
    home = tmp_path_factory.mktemp("stack")
    environment = clean_environment(home)
    with LocalStack(home, port=0, dashboard=False, environ=environment) as running:
        token = (home / "token").read_text("ascii").strip()
        yield RunningStack(home, running.server, token, Client(running.server, token), environment)


@pytest.fixture(scope="session")
def dashboard(stack: RunningStack) -> Iterator[str]:
    """Address of a dashboard in front of the session's server, which asks nobody on this machine who they are."""
    environ = stack.environment | {"STEADYNORM_DASHBOARD_SIGN_IN": "never"}
    with LocalStack(stack.home, dashboard_port=0, reuse_running=True, environ=environ) as running:
        yield running.dashboard
