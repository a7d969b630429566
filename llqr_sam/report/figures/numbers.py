"""CSV files of simulated numbers, which another processor computes with other rounding.

Some of the runs are chaotic: a last digit decides where a run ends, and with it a share or a mean. Without a tolerance
each machine would rewrite files that are under version control, and a real change would hide among changes of rounding.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.report.tables.printed_table import csv_text

RELATIVE = 0.02  # rounding may change a number of a column with slack by this part, too


def write_csv(path: Path, rows: Sequence[Mapping[str, object]], slack: Mapping[str, float]) -> Path:
    """Write rows with the same keys, atomically; keep a file whose numbers differ from them by rounding alone.

    Args:
        path: The CSV file.
        rows: Column -> value.
        slack: Column -> how far rounding may move its numbers, in their own unit; ``RELATIVE`` of the number is allowed
            as well. Columns without an entry must be equal, as must texts and empty fields.
    """
    text = csv_text(rows)
    if not _agree(path, text, slack):
        with replacing(path) as file:
            file.write(text.encode())
    return path


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
