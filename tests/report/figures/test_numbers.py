from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from llqr_sam.report.figures.numbers import RELATIVE, Numbers, write_picture

SLACK = {"share": 0.01, "mean": 0.001}
ROWS: list[dict[str, object]] = [
    {"rho": 0.1, "verdict": "holds", "share": "0.75", "mean": "12.23", "note": ""},
    {"rho": 0.2, "verdict": "between", "share": "0.00", "mean": "", "note": ""},
]


def write(path: Path, rows: list[dict[str, object]], width: float = 2.0) -> Path:
    """Write the rows beside a picture of this width in inches."""
    picture, numbers = write_picture(Figure(figsize=(width, 1)), path.with_suffix(".png"), [Numbers(path, rows, SLACK)])
    assert (picture, numbers) == (path.with_suffix(".png"), path)
    return numbers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the rows."""
    return write(tmp_path / "new" / "a.csv", ROWS)


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
    assert write(path, rows) == path
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
    write(path, rows)
    assert path.read_bytes() == write(tmp_path / "fresh.csv", rows).read_bytes()


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"rho,verdict\n", b'rho,verdict,share,mean,note\r"x'])
def test_a_damaged_file_is_written(path, damage):
    whole = path.read_bytes()
    path.write_bytes(damage)
    write(path, ROWS)
    assert path.read_bytes() == whole


def test_a_picture_is_kept_with_its_numbers_and_drawn_with_new_ones(path):
    """In both formats; and where its file was removed."""
    pictures = [path.with_suffix(".png"), path.with_suffix(".svg")]
    before = [picture.read_bytes() for picture in pictures]
    write(path, changed(0, share="0.76"), width=3.0)
    assert [picture.read_bytes() for picture in pictures] == before
    pictures[1].unlink()
    write(path, ROWS, width=3.0)
    assert all(picture.read_bytes() != old for picture, old in zip(pictures, before, strict=True))
    write(path, changed(0, share="0.90"), width=2.0)
    assert [picture.read_bytes() for picture in pictures] == before
