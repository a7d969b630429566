"""Pictures of simulated numbers, with their CSV files, which another processor computes with other rounding.

Some of the runs are chaotic: a last digit decides where a run ends, and with it a share or a mean. Without a tolerance
each machine would rewrite files that are under version control, and a real change would hide among changes of rounding.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.report.figures.drawing import write_figure
from llqr_sam.report.tables.printed_table import csv_text

RELATIVE = 0.02  # rounding may change a number of a column with slack by this part, too


@dataclass(frozen=True)
class Numbers:
    """A CSV file behind a picture.

    ``slack`` has columns, and how far rounding may move their numbers, in their own unit; ``RELATIVE`` of the number is
    allowed as well. Columns without an entry must be equal, as must texts and empty fields.
    """

    path: Path
    rows: Sequence[Mapping[str, object]]  # column -> value; the same columns in each
    slack: Mapping[str, float]

    def are_kept(self) -> bool:
        """Whether the file on disk has these numbers but for rounding."""
        return _agree(self.path, csv_text(self.rows), self.slack)

    def write(self) -> Path:
        """Write the file, atomically; returns its path."""
        with replacing(self.path) as file:
            file.write(csv_text(self.rows).encode())
        return self.path


def write_picture(figure: Figure, path: Path, numbers: Sequence[Numbers]) -> list[Path]:
    """Write a picture and the numbers behind it; keep the files where the numbers differ from theirs by rounding alone.

    A picture that was kept is drawn anew, in another style for instance, once its file is removed.

    Args:
        figure: The picture.
        path: Its PNG (``write_figure``).
        numbers: Its CSV files.
    """
    changed = [each for each in numbers if not each.are_kept()]
    if changed or not path.exists() or not path.with_suffix(".svg").exists():
        write_figure(figure, path)
    for each in changed:
        each.write()
    return [path, *(each.path for each in numbers)]


def _agree(path: Path, text: str, slack: Mapping[str, float]) -> bool:
    """Whether a file has the rows of ``text`` but for rounding. A missing or damaged file has not."""
    new_rows = list(csv.reader(io.StringIO(text)))
    try:
        old_rows = list(csv.reader(io.StringIO(path.read_bytes().decode())))
    except (FileNotFoundError, UnicodeDecodeError, csv.Error):
        return False
    if [len(row) for row in old_rows] != [len(row) for row in new_rows] or old_rows[0] != new_rows[0]:
        return False
    return all(
        _close(was, now, slack.get(column))
        for old_row, new_row in zip(old_rows[1:], new_rows[1:], strict=True)
        for column, was, now in zip(new_rows[0], old_row, new_row, strict=True)
    )


def _close(was: str, now: str, slack: float | None) -> bool:
    if slack is None or was == now:
        return was == now
    try:
        old, new = float(was), float(now)
    except ValueError:
        return False
    return abs(new - old) <= max(slack, RELATIVE * abs(old)) * (1 + 1e-9)  # 0.76 - 0.75 > 0.01
