from __future__ import annotations

from pathlib import Path

import pytest

from llqr_sam.report.figures.numbers import RELATIVE, write_csv

SLACK = {"share": 0.01, "mean": 0.001}
ROWS: list[dict[str, object]] = [
    {"rho": 0.1, "verdict": "holds", "share": "0.75", "mean": "12.23", "note": ""},
    {"rho": 0.2, "verdict": "between", "share": "0.00", "mean": "", "note": ""},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the rows."""
    return write_csv(tmp_path / "new" / "a.csv", ROWS, SLACK)


def changed(row: int, **values: object) -> list[dict[str, object]]:
    return [old | values if number == row else old for number, old in enumerate(ROWS)]


def test_a_new_file_has_the_rows(path):
    assert path.read_text() == "rho,verdict,share,mean,note\n0.1,holds,0.75,12.23,\n0.2,between,0.00,,\n"


@pytest.mark.parametrize(
    "rows",
    [
        changed(0, share="0.76"),  # one run of a hundred
        changed(1, share="0.01"),
        changed(0, mean="12.24"),
        changed(0, mean=f"{12.23 * (1 + 0.9 * RELATIVE):.4f}"),
    ],
)
def test_rounding_leaves_the_bytes(path, rows):
    before = path.read_bytes()
    assert write_csv(path, rows, SLACK) == path
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "rows",
    [
        changed(0, share="0.77"),
        changed(0, mean=f"{12.23 * (1 + 1.1 * RELATIVE):.4f}"),
        changed(1, mean="4.00"),  # a number where there was none
        changed(0, mean="nan"),
        changed(0, rho=0.1001),  # a parameter: no rounding moves it
        changed(0, verdict="between"),
        ROWS[:1],
        [*ROWS, ROWS[0]],
        [{name: row[name] for name in ("rho", "verdict", "mean", "share", "note")} for row in ROWS],
        [{"radius" if name == "rho" else name: value for name, value in row.items()} for row in ROWS],
    ],
)
def test_what_rounding_does_not_explain_is_written(path, rows, tmp_path):
    write_csv(path, rows, SLACK)
    assert path.read_bytes() == write_csv(tmp_path / "fresh.csv", rows, SLACK).read_bytes()


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"rho,verdict\n", b'rho,verdict,share,mean,note\r"x'])
def test_a_damaged_file_is_written(path, damage):
    whole = path.read_bytes()
    path.write_bytes(damage)
    write_csv(path, ROWS, SLACK)
    assert path.read_bytes() == whole
