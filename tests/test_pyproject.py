"""What pyproject.toml promises of versions is what `make test-oldest` installs."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parent.parent
LINTERS = {"mypy", "ruff"}  # they read the code and do not run it


def test_the_oldest_versions_are_the_lower_bounds():
    """Version by version; of those that read the code and do not run it none is installed old."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    promised = {}
    for text in (*project["dependencies"], *extras["suite"], *extras["sharpness"], *extras["dev"]):
        requirement = Requirement(text)
        for bound in requirement.specifier:
            if bound.operator == ">=":
                promised[canonicalize_name(requirement.name)] = Version(bound.version)
    pins = {}
    for line in (REPOSITORY / "constraints-oldest.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[canonicalize_name(name)] = Version(version)
    assert pins == {name: version for name, version in promised.items() if name not in LINTERS}
