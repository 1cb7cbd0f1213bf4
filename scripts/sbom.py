"""A software bill of materials (CycloneDX 1.5, JSON) of an image: `python scripts/sbom.py server >server.cdx.json`.

It lists the packages of deploy/requirements, from which the image is built, with their hashes. The base image brings
one of its own: docker buildx imagetools inspect python:3.11-slim --format '{{ json .SBOM }}'
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "contract/steadynorm_contract/__init__.py").read_text("utf-8"))


def pinned(text: str) -> list[tuple[str, str, list[str]]]:
    """Each requirement's name, version and SHA-256 hashes."""
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    found = [(re.match(r"([\w.-]+)(?:\[[^\]]*\])?==([^\s;]+)", entry), entry) for entry in entries]
    return [(head[1], head[2], re.findall(r"sha256:(\w{64})", entry)) for head, entry in found if head]


def bill(image: str) -> dict[str, Any]:
    """The document."""
    assert VERSION
    packages = pinned((ROOT / f"deploy/requirements/{image}.txt").read_text("utf-8"))
    components = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name.lower()}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name.lower()}@{version}",
            # One of these files is installed, by the image's platform.
            "externalReferences": [
                {
                    "type": "distribution",
                    "url": f"https://pypi.org/project/{name}/{version}/#files",
                    "hashes": [{"alg": "SHA-256", "content": each} for each in hashes],
                }
            ],
        }
        for name, version, hashes in packages
    ]
    itself = {"type": "application", "bom-ref": "steadynorm", "name": f"steadynorm-{image}", "version": VERSION[1]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": itself},
        "components": components,
        "dependencies": [{"ref": "steadynorm", "dependsOn": [each["bom-ref"] for each in components]}],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", choices=("server", "dashboard"))
    json.dump(bill(parser.parse_args().image), sys.stdout, indent=2)
