from __future__ import annotations

from dataclasses import replace

import matplotlib.image
import pytest

from llqr_sam.engine.record import Metrics
from llqr_sam.report.curves import COLOURS, OTHER, curves_of, draw_curves
from llqr_sam.suite.status import Status
from tests.suite.plans import plan_of
from tests.suite.records import record_of, write_record

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


@pytest.mark.parametrize("number", ["demo", "6"])
def test_every_method_of_a_table_has_a_colour_of_its_own(number):
    methods = {run.cell.method for run in plan_of(f"table={number}")}
    assert methods <= set(COLOURS)
    assert len({*(COLOURS[method] for method in methods), OTHER}) == len(methods) + 1


def test_bleu_is_drawn_where_it_was_scored(tmp_path):
    """Two seeds of AdamW on IWSLT14, BLEU after every second epoch."""
    runs = plan_of("table=6")[:2]
    for run, scores in zip(runs, ([None, 20.0, None, 30.0], [None, 22.0, None, 28.0]), strict=True):
        record = record_of(run, [40.0] * 4)
        curve = [
            replace(point, perplexity=9.0, bleu=bleu) for point, bleu in zip(record.metrics.curve, scores, strict=True)
        ]
        path = tmp_path / "runs" / "table_06" / f"{run.run_id}.json"
        replace(record, metrics=Metrics.from_curve(curve)).write(path)
    ((cell, curve),) = curves_of(Status.of(runs, tmp_path)).items()
    assert cell.method == "adamw"
    assert curve.epochs.tolist() == [2, 4]
    assert curve.scores.tolist() == [[20.0, 30.0], [22.0, 28.0]]
    assert curve.best == 29.0
    assert draw_curves("IWSLT14", Status.of(runs, tmp_path), tmp_path / "a.png", "val_bleu")
