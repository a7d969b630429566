from __future__ import annotations

import errno

import pytest

from llqr_sam.engine.observers.observer import RunInfo
from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.record import CurvePoint
from llqr_sam.suite.run import run_folder as traces
from llqr_sam.suite.run.run_folder import Epochs, Failure, ProgressFile, find_record, note_failure
from tests.suite.plans import plan_of
from tests.suite.records import write_record

RUNS = plan_of("table=demo", "optim=sgdm")


def test_a_failure_is_its_last_line_and_its_traceback(tmp_path):
    try:
        raise RuntimeError("first\n\nCUDA out of memory\n")
    except RuntimeError as error:
        note_failure("run", tmp_path / "run", error)
    failure = Failure.read(tmp_path / "run")
    assert failure is not None
    assert failure.error == "RuntimeError: CUDA out of memory"
    log = (tmp_path / "run" / "log.txt").read_text()
    assert failure.log == str(tmp_path / "run" / "log.txt")
    assert log.startswith("Traceback")


def test_a_full_disk_costs_the_note_alone(tmp_path, monkeypatch, caplog):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(traces, "replacing", full)
    note_failure("run", tmp_path, RuntimeError("boom"))
    assert Failure.read(tmp_path) is None
    assert "run (RuntimeError: boom) is not noted" in caplog.text


def test_time_left_is_at_the_pace_so_far():
    epochs = Epochs(done=2, planned=10, best=90.0, seconds=60.0, time=1000.0)
    assert epochs.left(1000.0) == pytest.approx(240.0)
    assert epochs.left(1030.0) == pytest.approx(210.0)
    assert epochs.left(9999.0) == 0.0
    assert epochs.left(900.0) == pytest.approx(240.0)  # counted on a machine whose clock is ahead
    assert Epochs(0, 10, None, 0.0, 0.0).left(5.0) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"done": 1}'])
def test_a_trace_that_is_not_one_is_none(tmp_path, text):
    with replacing(tmp_path / "progress.json") as file:
        file.write(text.encode())
    assert Epochs.read(tmp_path) is None


def test_the_first_readable_record_is_the_runs(tmp_path):
    path = write_record(tmp_path, RUNS[0], [90.0])
    bad = path.with_name("bad.json")
    bad.write_text("{")
    found, damaged = find_record(RUNS[0].run_id, [bad, path.with_name("gone.json"), path])
    assert found is not None
    assert found[0] == path
    assert len(damaged) == 1
    assert find_record(RUNS[1].run_id, [path])[0] is None


def point(score: float, **translation: float) -> CurvePoint:
    return CurvePoint(1, 10, 0.1, 1.0, 1.0, score, 2.0, **translation)


@pytest.mark.parametrize(
    ("reached", "expected"),
    [(point(60.0), (60.0, "%")), (point(60.0, perplexity=9.0, bleu=29.5), (29.5, "BLEU"))],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_progress_has_the_best_score_and_its_unit(reached, expected, resumed, tmp_path):
    curve = (reached,) if resumed else ()
    progress = ProgressFile()
    progress.on_start(RunInfo("run", {}, None, "a CPU", 1, 3, 10, 0, curve, (), tmp_path, lambda: None))
    if not resumed:
        progress.on_epoch(reached)
    epochs = Epochs.read(tmp_path)
    assert epochs is not None
    assert (epochs.best, epochs.unit) == expected


def test_progress_without_a_unit_is_of_a_percentage(tmp_path):
    """As it was written before translation had its own."""
    with replacing(tmp_path / "progress.json") as file:
        file.write(b'{"best": 90.0, "devices": 1, "done": 1, "planned": 2, "seconds": 3.0, "time": 4.0}')
    assert Epochs.read(tmp_path) == Epochs(1, 2, 90.0, 3.0, 4.0, unit="%")
