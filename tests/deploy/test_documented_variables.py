"""The table of variables in docs/deploying.md is the server's configuration, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from steadynorm_server.config import ServerConfig


def test_every_variable_of_the_server_is_documented_and_every_documented_one_exists(root: Path) -> None:
    page = (root / "docs" / "deploying.md").read_text("utf-8")
    cells = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`([A-Z_]+)`", cell)]
    documented = {re.sub(r"^(STEADYNORM)?_", "", name).lower() for name in names}
    assert len(documented) >= 10
    assert documented == set(ServerConfig.model_fields)
