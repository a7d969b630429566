from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from llqr_sam.report.figures.curves import curves_of, draw_convergence, draw_curves
from llqr_sam.report.figures.drawing import COLOURS, OTHER, NoRecords
from llqr_sam.report.page.page import LEFT, chart
from llqr_sam.report.tables.accuracy_table import AccuracyTable, collect
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from tests.suite.plans import plan_of
from tests.suite.records import write_record

RUNS = plan_of("table=demo", "table.seeds=[0,1,2]")


def table(results: Path) -> AccuracyTable:
    """The demo's."""
    return collect(Command.of("table=demo", f"paths.results={results}"))[1]


def test_draws_what_is_finished_with_equal_bytes(tmp_path):
    for number, run in enumerate(RUNS[:9]):
        write_record(tmp_path, run, [50.0 + number, 60.0 + number, 65.0])
    first, second = tmp_path / "a" / "curves.png", tmp_path / "b.png"
    assert draw_curves(table(tmp_path), first)
    assert draw_curves(table(tmp_path), second)
    assert first.read_bytes() == second.read_bytes()
    assert matplotlib.image.imread(first).std() > 0


def test_draws_nothing_from_nothing(tmp_path):
    assert not draw_curves(table(tmp_path), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_every_method_of_the_demo_has_its_colour():
    assert {run.cell.method for run in RUNS} | {"adamw"} == set(COLOURS)
    assert len({*COLOURS.values(), OTHER}) == len(COLOURS) + 1


def test_curves_are_as_long_as_the_shortest_run_and_in_the_order_of_the_plan(tmp_path):
    write_record(tmp_path, RUNS[3], [50.0, 60.0])
    write_record(tmp_path, RUNS[0], [10.0, 20.0, 30.0])
    write_record(tmp_path, RUNS[1], [20.0, 10.0])
    first, second = curves_of(table(tmp_path).cells)
    assert (first.cell.method, second.cell.method) == ("sgdm", "llqr")
    np.testing.assert_array_equal(first.score, [[10.0, 20.0], [20.0, 10.0]])
    np.testing.assert_array_equal(first.seconds, [[1.0, 2.0], [1.0, 2.0]])
    assert first.best == 20.0


def test_convergence_of_a_table(tmp_path):
    """Figure 1 of another table, by its words: one row of two panels."""
    for number, run in enumerate(RUNS[:9]):
        write_record(tmp_path, run, [50.0 + number, 60.0 + number, 65.0])
    (path,) = draw_convergence("1", tmp_path, tmp_path / "figures", ["table=demo"])
    assert path == tmp_path / "figures" / "figure_01.png"
    height, width, _ = matplotlib.image.imread(path).shape
    assert (width, height) == (1625, 598)


def test_convergence_without_records(tmp_path):
    with pytest.raises(NoRecords, match="python train.py table=6"):
        draw_convergence("4", tmp_path, tmp_path)


def test_no_curve_is_drawn_over_records_of_different_data(tmp_path):
    for run, data in zip(RUNS[:2], "ab", strict=True):
        write_record(tmp_path, run, [50.0, 60.0], data=data * 64)
    with pytest.raises(UsageError, match="of different data"):
        draw_curves(table(tmp_path), tmp_path / "curves.png")
    with pytest.raises(UsageError, match="of different data"):
        draw_convergence("1", tmp_path, tmp_path / "figures", ["table=demo"])
    assert not list(tmp_path.rglob("*.png"))


def test_evaluations_stand_where_they_were(tmp_path):
    """Of a run that is not evaluated at the ends of epochs, as of one that is."""
    write_record(tmp_path, RUNS[0], [10.0, 20.0, 30.0], epochs=[0.8, 1.6, 2])
    (curve,) = curves_of(table(tmp_path).cells)
    np.testing.assert_array_equal(curve.epochs, [0.8, 1.6, 2.0])
    assert draw_curves(table(tmp_path), tmp_path / "curves.png")
    (panel, _) = chart([curve]).panels
    xs = [float(point.partition(",")[0]) for point in panel.lines[0].split()]
    left = [(x - LEFT) / (xs[2] - LEFT) for x in xs]
    assert left == pytest.approx([0.4, 0.8, 1.0], abs=0.01)
