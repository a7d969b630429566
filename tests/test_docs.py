"""The documents name files that exist, and the picture of the house shows every room and part."""

from __future__ import annotations

import re

import pytest

from llqr_sam.repository import PACKAGE, ROOT
from tests.test_floors import FLOORS, PARTS

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = ("results/", "outputs/", "data/", "window/")  # by runs, so not always there
NAMED = re.compile(r"`((?:[\w.]+/)+(?:[\w.-]+\.(?:py|yaml|sh))?)`")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(path):
    """Names are relative to the repository or to the package."""
    named = {
        name
        for name in NAMED.findall(path.read_text())
        if not name.startswith(("results/", "outputs/", "data/", "window/"))
    }
    missing = {name for name in named if not any((base / name).exists() for base in (ROOT, PACKAGE))}
    assert not missing


def test_python_in_the_documents_runs():
    """The blocks of one document are one program."""
    for path in DOCUMENTS:
        if path.name != "README.md" and (blocks := re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)):
            exec(compile("\n".join(blocks), path.name, "exec"), {})


def test_the_frameworks_versions_are_those_of_the_tests():
    text = (ROOT / "docs" / "frameworks.md").read_text()
    pins = "".join((ROOT / name).read_text() for name in ("constraints.txt", "constraints-integrations.txt"))
    for name in ("torch", "lightning", "transformers", "accelerate", "timm", "pytorch_optimizer"):
        version = re.search(rf"^{name}==(\S+)$", pins, re.MULTILINE).group(1)
        assert version in text, f"{name} is {version}"


def test_the_picture_shows_every_room_and_part():
    picture = set(re.findall(r">([\w ]+)</text>", (ROOT / "docs" / "rooms.svg").read_text()))
    rooms = {room for room, floor in FLOORS.items() if floor}
    minor = {"shards", "named", "distributed", "bases"}  # one file each, below the rest of methods
    parts = {part for room in PARTS.values() for level in room for part in level}
    assert rooms | (parts - minor) <= picture
