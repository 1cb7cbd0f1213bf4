"""The option that rewrites the golden files."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """--golden=write: record the present wire format; review the difference before you commit it."""
    parser.addoption("--golden", choices=["check", "write"], default="check")
