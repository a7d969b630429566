from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from llqr_sam.engine.records.typed_json import DamagedRecordError, read, read_all, to_json

VERSION = 3


@dataclass(frozen=True)
class Leaf:
    value: float | None
    kind: Literal["round", "long"] = "round"


@dataclass(frozen=True)
class Tree:
    schema: int
    leaves: list[Leaf]
    heights: dict[str, float]
    note: str | None = None
    age: int | float = 0


TREE = Tree(VERSION, [Leaf(0.1), Leaf(2.0, "long")], {"trunk": 3.0})


@pytest.fixture
def read_text(tmp_path: Path) -> Callable[[str], Tree]:
    """Read a tree from a text."""

    def read_it(text: str) -> Tree:
        (tmp_path / "tree.json").write_text(text)
        return read(Tree, tmp_path / "tree.json", VERSION)

    return read_it


def test_what_is_written_is_read_back(read_text: Callable[[str], Tree]):
    assert read_text(to_json(TREE)) == TREE


def test_defaults_are_left_out_and_what_is_not_finite_is_null():
    tree = json.loads(to_json(Tree(VERSION, [Leaf(math.nan)], {})))
    assert tree == {"schema": VERSION, "leaves": [{"value": None}], "heights": {}}


def test_an_integer_is_read_as_the_float_it_stands_for(read_text: Callable[[str], Tree]):
    """JSON has one kind of number: 3 may be what another writer makes of 3.0."""
    read_back = read_text('{"schema": 3, "leaves": [], "heights": {"trunk": 3}}')
    assert isinstance(read_back.heights["trunk"], float)


@pytest.mark.parametrize("age", [3, 3.0, 3.5])
def test_either_kind_of_number_stays_what_it_is(age: float, read_text: Callable[[str], Tree]):
    tree = Tree(VERSION, [], {}, age=age)
    assert type(read_text(to_json(tree)).age) is type(age)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            '{"schema": 3, "leaves": [{"value": 1, "kind": "square"}], "heights": {}}',
            "leaves[0].kind is",
        ),
        (
            '{"schema": 3, "leaves": [], "heights": {"trunk": "tall"}}',
            'heights.trunk is "tall"',
        ),
        ('{"schema": 3, "leaves": [], "heights": {}, "roots": 1}', "roots is 1: Unexpected"),
        ('{"schema": 3, "leaves": []}', "heights is missing"),
        ('{"schema": 4, "leaves": [], "heights": {}}', "update the code"),
        ('{"schema": true}', "schema is True, this version reads 3"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_the_key(tmp_path: Path, content: str, reason: str):
    path = tmp_path / "tree.json"
    path.write_text(content)
    with pytest.raises(DamagedRecordError) as raised:
        read(Tree, path, VERSION)
    assert str(raised.value).startswith(f"{path}: ")
    assert reason in str(raised.value)


def test_reads_what_can_be_read_in_the_order_asked(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(to_json(Tree(VERSION, [], {}, note=name)))
    (tmp_path / "half").write_text(to_json(TREE)[:20])
    (tmp_path / "folder").mkdir()
    paths = [tmp_path / name for name in ("b", "half", "absent", "folder", "a")]
    trees, damaged = read_all(Tree, paths, VERSION)
    assert [tree.note for tree in trees] == ["b", "a"]
    assert [line.partition(": ")[0] for line in damaged] == [str(path) for path in paths[1:4]]
    assert all(line.partition(": ")[2] for line in damaged)
