from __future__ import annotations

import matplotlib.image

from llqr_sam.report.curves import COLOURS, OTHER, draw_curves
from llqr_sam.suite.status import Status
from tests.suite.plans import plan_of
from tests.suite.records import write_record

RUNS = plan_of("table=demo")


def test_draws_what_is_finished_with_equal_bytes(tmp_path):
    for number, run in enumerate(RUNS[:9]):
        write_record(tmp_path, run, [50.0 + number, 60.0 + number, 65.0])
    status = Status.of(RUNS, tmp_path)
    first, second = tmp_path / "a" / "curves.png", tmp_path / "b.png"
    assert draw_curves("Demo", status, first)
    assert draw_curves("Demo", status, second)
    assert first.read_bytes() == second.read_bytes()
    assert matplotlib.image.imread(first).std() > 0


def test_draws_nothing_from_nothing(tmp_path):
    assert not draw_curves("Demo", Status.of(RUNS, tmp_path), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_every_method_of_the_demo_has_its_colour():
    assert {run.cell.method for run in RUNS} == set(COLOURS)
    assert len({*COLOURS.values(), OTHER}) == len(COLOURS) + 1
