from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest

from llqr_sam.report.tables import accuracy_table
from llqr_sam.report.tables.accuracy_table import (
    ACCURACY,
    AccuracyTable,
    BestOrLast,
    PaperValue,
    collect,
    read_accuracy,
)
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.plan.plan import Cell
from llqr_sam.suite.run.run_folder import note_failure
from tests.suite.plans import plan_of
from tests.suite.records import write_record

SEEDS = "table.seeds=[0,1,2]"
RUNS = plan_of("table=demo", SEEDS)
SGDM, LLQR = RUNS[:3], RUNS[3:6]


def table(
    results: Path, kind: BestOrLast = "best", number: str = "demo", paper: float = 1.0, words: Sequence[str] = ()
) -> AccuracyTable:
    """From the records in ``results``; the paper has a value for SGDM of the demo, which has three seeds here."""
    seeds = [SEEDS] if number == "demo" else []
    command = Command.of(f"table={number}", *seeds, *words, f"paths.results={results}", f"paths.workspace={results}/w")
    values = {("demo", SGDM[0].cell): PaperValue(paper, 2.0)}
    with mock.patch.object(accuracy_table, "read_accuracy", return_value=values):
        return collect(command, kind)[1]


def test_mean_and_sample_deviation(tmp_path):
    for run, best in zip(SGDM, (90.0, 91.0, 95.0), strict=True):
        write_record(tmp_path, run, [50.0, best, 80.0])
    entry = table(tmp_path).cells[0]
    assert entry.scores("best").values == (90.0, 91.0, 95.0)
    assert entry.scores("best").mean == pytest.approx(92.0)
    assert entry.scores("best").std == pytest.approx(statistics.stdev([90.0, 91.0, 95.0]))
    assert entry.paper == PaperValue(1.0, 2.0)
    assert entry.scores("last").values == (80.0, 80.0, 80.0)
    assert (entry.epochs("best").values, entry.epochs("last").values) == ((2, 2, 2), (3, 3, 3))


def test_nothing_is_invented(tmp_path):
    """No run: no mean. One run: no deviation. A diverged run: counted, not averaged."""
    write_record(tmp_path, SGDM[0], [90.0])
    write_record(tmp_path, SGDM[1], [99.0], status="diverged")
    sgdm, llqr = table(tmp_path).cells[:2]
    best = sgdm.scores("best")
    assert (best.values, best.std, sgdm.diverged, sgdm.failed, len(sgdm.runs)) == ((90.0,), None, 1, 0, 3)
    best = llqr.scores("best")
    assert (best.values, best.mean, best.std, llqr.paper) == ((), None, None, None)


def test_failed_runs_are_counted(tmp_path):
    for run in SGDM[:2]:
        note_failure(run.run_id, tmp_path / "w" / run.run_id, RuntimeError("boom"))
    write_record(tmp_path, SGDM[1], [90.0])  # the retry went well
    entry = table(tmp_path).cells[0]
    assert (len(entry.finished), entry.failed, entry.diverged, len(entry.runs)) == (1, 1, 0, 3)


def test_differences_are_paired_by_seed(tmp_path):
    """SGDM has seeds 0 and 1, LLQR 1 and 2: one pair."""
    for run, best in [(SGDM[0], 90.0), (SGDM[1], 80.0), (LLQR[1], 81.5), (LLQR[2], 99.0)]:
        write_record(tmp_path, run, [best, 50.0])
    found = table(tmp_path)
    (row,) = found.rows
    assert dict(row[1].difference("best").by_seed) == {1: 1.5}
    assert row[0].difference("best").values == ()  # the baseline itself
    assert row[2].difference("best").values == ()  # nothing finished
    assert dict(row[1].difference("last").by_seed) == {1: 0.0}


def test_a_table_without_the_baselines_column_has_no_differences(tmp_path):
    for run in plan_of("table=7"):
        write_record(tmp_path, run, [80.0])
    found = table(tmp_path, number="7", words=["table.baseline=sgdm"])
    assert found.rows[0][0].baseline is None
    assert all(entry.difference("best").values == () for entry in found.cells)


@pytest.mark.parametrize(("paper", "outside"), [(92.0, False), (86.0, False), (85.0, True), (99.0, True)])
def test_the_papers_value_against_the_interval_of_our_best(tmp_path, paper, outside):
    """90, 91 and 95: t interval 92 -+ 4.303 x 2.646 / sqrt(3) = [85.4, 98.6]; the last epochs do not matter."""
    for run, best in zip(SGDM, (90.0, 91.0, 95.0), strict=True):
        write_record(tmp_path, run, [best, 10.0])
    assert table(tmp_path, "best", paper=paper).cells[0].paper_is_outside is outside
    assert table(tmp_path, "last", paper=paper).cells[0].paper_is_outside is outside


def test_one_seed_judges_no_paper(tmp_path):
    write_record(tmp_path, SGDM[0], [90.0])
    assert table(tmp_path).cells[0].paper_is_outside is None


def test_rows_and_columns_are_those_of_the_paper(tmp_path):
    rows = table(tmp_path, number="8").rows
    assert [len(row) for row in rows] == [5] * 4
    assert [row[0].cell.label_noise for row in rows] == [0.2, 0.6, 0.7, 0.8]
    assert [entry.cell.method for entry in rows[0]] == ["sgdm", "adam", "llqr", "sam", "llqr_sam"]


def test_records_of_different_data_are_not_pooled(tmp_path):
    """Nor compared: neither within a cell nor between the cells of a row."""
    for seed, run in enumerate(SGDM):
        write_record(tmp_path / "cell", run, [90.0], data="ab"[seed % 2] * 64)
    write_record(tmp_path / "row", SGDM[0], [90.0], data="a" * 64)
    write_record(tmp_path / "row", LLQR[0], [90.0], data="b" * 64)
    for results in (tmp_path / "cell", tmp_path / "row"):
        with pytest.raises(UsageError, match="the records of dataset=digits are of different data"):
            table(results)


def test_the_papers_numbers_are_the_published_ones(shared: Path):
    """results/paper/ holds the numbers as they were read from the paper, byte for byte."""
    for name in ("accuracy.csv", "table9_storage.csv", "table10_cadence.csv"):
        assert (ACCURACY.parent / name).read_bytes() == (shared / "paper" / name).read_bytes()


def test_read_accuracy():
    values = read_accuracy()
    assert len(values) == 133
    assert values["2", Cell("cifar100", "resnet18", 0.0, "llqr_sam", "ngd")] == PaperValue(81.82, 0.14)
    assert values["6", Cell("iwslt14", "transformer_iwslt", 0.0, "llqr_sam", "ngd")] == PaperValue(34.57, 0.09)
    assert values["8", Cell("cifar100", "resnet18", 0.7, "adam", None)] == PaperValue(4.16, 0.52)
