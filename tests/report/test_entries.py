from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from llqr_sam.report.entries import Table, build_table
from llqr_sam.report.paper import PaperValue
from llqr_sam.suite.status import Status
from tests.suite.plans import plan_of
from tests.suite.records import write_record

RUNS = plan_of("table=demo")
SGDM, LLQR = RUNS[:3], RUNS[3:6]


def table(results: Path, kind: str = "best") -> Table:
    paper = {("demo", SGDM[0].cell): PaperValue(1.0, 2.0)}
    return build_table("demo", "Demo", "command", Status.of(RUNS, results), paper, kind)  # type: ignore[arg-type]


def test_mean_and_sample_deviation(tmp_path):
    for run, best in zip(SGDM, (90.0, 91.0, 95.0), strict=True):
        write_record(tmp_path, run, [50.0, best, 80.0])
    entry = table(tmp_path).entries[0]
    assert entry.values == (90.0, 91.0, 95.0)
    assert entry.mean == pytest.approx(92.0)
    assert entry.std == pytest.approx(statistics.stdev([90.0, 91.0, 95.0]))
    assert entry.paper == PaperValue(1.0, 2.0)
    assert table(tmp_path, "last").entries[0].values == (80.0, 80.0, 80.0)


def test_nothing_is_invented(tmp_path):
    """No run: no mean. One run: no deviation. A diverged run: counted, not averaged."""
    write_record(tmp_path, SGDM[0], [90.0])
    write_record(tmp_path, SGDM[1], [99.0], status="diverged")
    sgdm, llqr = table(tmp_path).entries[:2]
    assert (sgdm.values, sgdm.std, sgdm.diverged, sgdm.planned) == ((90.0,), None, 1, 3)
    assert (llqr.values, llqr.mean, llqr.std, llqr.paper) == ((), None, None, None)


def test_rows_and_columns_are_those_of_the_paper(tmp_path):
    status = Status.of(plan_of("table=8"), tmp_path)
    rows = build_table("8", "Noise", "command", status, {}).rows
    assert [len(row) for row in rows] == [5] * 4
    assert [row[0].cell.label_noise for row in rows] == [0.2, 0.6, 0.7, 0.8]
    assert [entry.cell.method for entry in rows[0]] == ["sgdm", "adam", "llqr", "sam", "llqr_sam"]


def test_best_of_a_row_needs_two(tmp_path):
    write_record(tmp_path, SGDM[0], [90.0])
    alone = table(tmp_path)
    assert alone.best(alone.rows[0]) is None
    write_record(tmp_path, LLQR[0], [91.0])
    both = table(tmp_path)
    assert both.best(both.rows[0]) == 91.0
