from __future__ import annotations

import errno

import pytest

from llqr_sam.engine.atomic import replacing
from llqr_sam.suite import traces
from llqr_sam.suite.traces import Epochs, find_record, note_failure, read_failure, read_progress
from tests.suite.plans import plan_of
from tests.suite.records import write_record

RUNS = plan_of("table=demo", "optim=sgdm")


def test_a_failure_is_its_last_line_and_its_traceback(tmp_path):
    try:
        raise RuntimeError("first\n\nCUDA out of memory\n")
    except RuntimeError as error:
        note_failure("run", tmp_path / "run", error)
    failure = read_failure(tmp_path / "run")
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
    assert read_failure(tmp_path) is None
    assert "run (RuntimeError: boom) is not noted" in caplog.text


def test_time_left_is_at_the_pace_so_far():
    epochs = Epochs(done=2, planned=10, best=90.0, seconds=60.0, time=1000.0)
    assert epochs.left(1000.0) == pytest.approx(240.0)
    assert epochs.left(1030.0) == pytest.approx(210.0)
    assert epochs.left(9999.0) == 0.0
    assert Epochs(0, 10, None, 0.0, 0.0).left(5.0) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"done": 1}'])
def test_a_trace_that_is_not_one_is_none(tmp_path, text):
    with replacing(tmp_path / "progress.json") as file:
        file.write(text.encode())
    assert read_progress(tmp_path) is None


def test_the_first_readable_record_is_the_runs(tmp_path):
    path = write_record(tmp_path, RUNS[0], [90.0])
    bad = path.with_name("bad.json")
    bad.write_text("{")
    found, damaged = find_record(RUNS[0].run_id, [bad, path.with_name("gone.json"), path])
    assert found is not None
    assert found[0] == path
    assert len(damaged) == 1
    assert find_record(RUNS[1].run_id, [path])[0] is None
