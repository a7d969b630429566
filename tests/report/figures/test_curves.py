from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from llqr_sam.report.figures import curves as curve_figures
from llqr_sam.report.figures.curves import curves_of, draw_convergence, draw_curves
from llqr_sam.report.figures.drawing import FAINT, LOOKS, NoRecords
from llqr_sam.report.tables.accuracy_table import AccuracyTable, collect
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from tests.figures import drawn_by
from tests.suite.plans import plan_of
from tests.suite.records import write_record

RUNS = plan_of("table=demo", "table.seeds=[0,1,2]")


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures as objects, beside their files."""
    return drawn_by(curve_figures, monkeypatch)


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


def test_every_method_of_the_demo_has_its_look():
    assert {run.cell.method for run in RUNS} | {"adamw"} == set(LOOKS)


def test_a_panel_for_each_method_with_the_baseline_behind_it(tmp_path, drawn):
    """SGDM, LLQR and SAM: titles are mean and sample standard deviation; the free place holds the legend."""
    for number, run in enumerate(RUNS[:9]):
        write_record(tmp_path, run, [50.0 + number, 60.0 + number, 65.0])
    draw_curves(table(tmp_path), tmp_path / "curves.png")
    (figure,) = drawn
    *panels, free = figure.axes
    assert [axes.get_title("left") for axes in panels] == [
        "SGDM  65.00 ± 0.00",
        "LLQR (NGD)  65.00 ± 0.00",
        "SAM  67.00 ± 1.00",
    ]
    assert figure.get_suptitle().startswith("Digits with 40 % label noise, n = 3\n")
    greys = [[line for line in axes.lines if line.get_color() == FAINT] for axes in panels]
    assert [len(lines) for lines in greys] == [0, 1, 1]
    np.testing.assert_array_equal(greys[2][0].get_ydata(), [51.0, 61.0, 65.0])
    assert [text.get_text() for text in free.get_legend().get_texts()][-1] == "mean of SGDM"
    assert len({axes.get_ylim() for axes in panels}) == len({axes.get_xlim() for axes in panels}) == 1


def test_one_method_is_one_panel(tmp_path, drawn):
    """One seed has no standard deviation, and no baseline is no reference."""
    write_record(tmp_path, RUNS[6], [50.0, 60.0])
    draw_curves(table(tmp_path), tmp_path / "curves.png")
    (axes,) = drawn[0].axes
    assert axes.get_title("left") == "SAM  60.00"
    assert len(axes.lines) == 1


def test_unequal_numbers_of_seeds_are_in_the_panels(tmp_path, drawn):
    for run in RUNS[:5]:
        write_record(tmp_path, run, [50.0, 60.0])
    draw_curves(table(tmp_path), tmp_path / "curves.png")
    assert "n = 2 to 3" in drawn[0].get_suptitle()
    assert [axes.texts[0].get_text() for axes in drawn[0].axes] == ["n = 3", "n = 2"]


def test_curves_are_as_long_as_the_shortest_run_and_in_the_order_of_the_plan(tmp_path):
    write_record(tmp_path, RUNS[3], [50.0, 60.0])
    write_record(tmp_path, RUNS[0], [10.0, 20.0, 30.0])
    write_record(tmp_path, RUNS[1], [20.0, 10.0])
    first, second = curves_of(table(tmp_path).cells)
    assert (first.cell.method, second.cell.method) == ("sgdm", "llqr")
    np.testing.assert_array_equal(first.score, [[10.0, 20.0], [20.0, 10.0]])
    np.testing.assert_array_equal(first.seconds, [[1.0, 2.0], [1.0, 2.0]])
    assert first.best == 20.0


def test_convergence_of_a_table(tmp_path, drawn):
    """Figure 1 of another table, by its words: score by epoch and time, loss by time, bands for baseline and best."""
    for number, run in enumerate(RUNS[:9]):
        write_record(tmp_path, run, [50.0 + number, 60.0 + number, 65.0])
    (path,) = draw_convergence("1", tmp_path, tmp_path / "figures", ["table=demo"])
    assert path == tmp_path / "figures" / "figure_01.png"
    by_epoch, by_time, loss = drawn[0].axes
    assert by_epoch.get_ylim() == by_time.get_ylim()
    assert (by_epoch.get_ylabel(), by_epoch.get_xlabel()) == ("test accuracy, %", "epoch")
    assert by_time.get_xlabel().startswith("minutes")
    assert (loss.get_ylabel(), loss.get_xlabel()) == ("test loss", "minutes of training, mean over seeds")
    assert all(set(line.get_ydata()) == {1.0} for line in loss.lines)
    for one, other in zip(by_epoch.lines, by_time.lines, strict=True):
        np.testing.assert_array_equal(one.get_ydata(), other.get_ydata())
    assert [len(axes.collections) for axes in drawn[0].axes] == [2, 2, 2]
    thin = [line.get_linewidth() < by_epoch.lines[0].get_linewidth() for line in by_epoch.lines]
    assert thin == [False, True, False]  # SGDM, LLQR, SAM
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["SGDM", "LLQR (NGD)", "SAM"]


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


def test_evaluations_stand_where_they_were(tmp_path, drawn):
    """Of a run that is not evaluated at the ends of epochs, as of one that is."""
    write_record(tmp_path, RUNS[0], [10.0, 20.0, 30.0], epochs=[0.8, 1.6, 2])
    assert draw_curves(table(tmp_path), tmp_path / "curves.png")
    np.testing.assert_array_equal(drawn[0].axes[0].lines[0].get_xdata(), [0.8, 1.6, 2.0])
