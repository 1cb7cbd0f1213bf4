"""The option that writes the golden files anew."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """--golden=write: pin the wire format as it is now. Look at the difference before you keep it."""
    parser.addoption("--golden", choices=["check", "write"], default="check")
