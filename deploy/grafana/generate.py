"""The Grafana dashboards as code: `python deploy/grafana/generate.py` writes fleet.json and run.json to dashboards/.

Edit the code, never the JSON. `--check` compares instead of writing, and a test runs it. Every expression that is drawn
is evaluated against a real Prometheus by the end-to-end test.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fleet_dashboard
import run_dashboard

FOLDER = Path(__file__).parent / "dashboards"


def render() -> dict[Path, str]:
    """Each file and its text."""
    made = {"fleet": fleet_dashboard.make(), "run": run_dashboard.make()}
    return {
        FOLDER / f"{name}.json": json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        for name, content in made.items()
    }


def main() -> int:
    """Write the files; with --check say whether they are up to date."""
    check = "--check" in sys.argv[1:]
    FOLDER.mkdir(exist_ok=True)
    for file, text in render().items():
        if not check:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            print(
                f"{file.name} is not what generate.py makes: run `python deploy/grafana/generate.py`", file=sys.stderr
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
