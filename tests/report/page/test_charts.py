"""The numbers behind the page's curves."""

from __future__ import annotations

from pathlib import Path

from llqr_sam.report.page.charts import chart_of
from llqr_sam.report.page.section import Chart
from llqr_sam.report.tables.accuracy_table import collect
from llqr_sam.suite.config.command import Command
from tests.suite.plans import plan_of
from tests.suite.records import write_record

RUNS = plan_of("table=7")  # FisherSAM (the baseline), LLQR^Delta+SAM, LLQR+SAM, five seeds each


def chart(results: Path) -> Chart | None:
    _, table = collect(Command.of("table=7", f"paths.results={results}"))
    return chart_of(table.rows[0])


def test_mean_lowest_and_highest_over_seeds(tmp_path):
    for run, scores in zip(RUNS[:2], ([10.0, 20.0], [30.0, 50.0]), strict=True):
        write_record(tmp_path, run, scores)
    write_record(tmp_path, RUNS[5], [40.0, 45.0])
    found = chart(tmp_path)
    assert found is not None
    fisher, probe = found.lines
    assert fisher.score == [[20.0, 35.0], [10.0, 20.0], [30.0, 50.0]]
    assert (fisher.epoch, fisher.seeds) == ([1.0, 2.0], 2)
    assert fisher.minutes == [round(1 / 60, 3), round(2 / 60, 3)]
    assert (probe.name, probe.seeds) == ("LLQR^Δ+SAM (NGD), n = 1", 1)
    assert found.score_label == "test accuracy, %"


def test_bands_are_first_of_the_best_method_and_the_baseline(tmp_path):
    for first, score in ((0, 90.0), (5, 70.0), (10, 80.0)):
        write_record(tmp_path, RUNS[first], [score])
    assert chart(tmp_path).pair == (2, 0)


def test_a_lone_method_is_its_own_pair(tmp_path):
    assert chart(tmp_path) is None
    write_record(tmp_path, RUNS[5], [70.0])
    assert chart(tmp_path).pair == (0, 0)


def test_methods_differ_in_more_than_their_colour(tmp_path):
    """On grey paper; LLQR^Delta+SAM, which has no look of its own, takes a free one."""
    for first in (0, 5, 10):
        write_record(tmp_path, RUNS[first], [70.0, 71.0])
    lines = chart(tmp_path).lines
    assert len({line.ink for line in lines}) == 3
    assert len({tuple(line.dash) for line in lines}) == 3
