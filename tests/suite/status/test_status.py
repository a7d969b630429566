from __future__ import annotations

import pytest

from llqr_sam.engine.records.checkpoint import CheckpointStore
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.run.lock import RunLock
from llqr_sam.suite.run.run_folder import Queued, note_failure
from llqr_sam.suite.status.status import result, some
from tests.suite.conftest import RUNS as BOTH
from tests.suite.plans import plan_of
from tests.suite.records import record_of, status_of, write_progress, write_record
from tests.suite.slurm import commands

RUNS = plan_of("table=demo", "optim=sgdm", "table.seeds=[0,1,2]")


def test_finished_diverged_missing_and_damaged(tmp_path):
    """A damaged record is named and counts as missing; a diverged run is done."""
    write_record(tmp_path, RUNS[0], [90.0, 80.0])
    write_record(tmp_path, RUNS[1], [10.0], status="diverged")
    damaged = tmp_path / "runs" / "demo" / f"{RUNS[2].run_id}.json"
    damaged.write_text("{")
    status = status_of(RUNS, tmp_path)
    assert [status.of_run(run) for run in RUNS] == ["finished", "diverged", "missing"]
    assert status.missing == [RUNS[2]]
    assert status.total() == "3 runs: 1 finished, 1 diverged, 1 missing"
    assert len(status.damaged) == 1
    assert str(damaged) in status.damaged[0]
    lines = list(status.lines())
    assert len(lines) == 5
    assert "best 90.00 % (epoch 1), last 80.00 %" in lines[0]


def test_a_record_that_cannot_be_read_is_named_and_not_missing(tmp_path):
    """Whatever it says, the run may be done; a finished one beside it is."""
    path = tmp_path / "runs" / "demo" / f"{RUNS[0].run_id}.json"
    path.mkdir(parents=True)
    status = status_of(RUNS, tmp_path, tmp_path / "work")
    assert [status.of_run(run) for run in RUNS] == ["failed", "missing", "missing"]
    assert status.line(RUNS[0]) == f"failed: its record cannot be read ({path}: Is a directory)"
    assert status.damaged == [f"record not counted: {path}: Is a directory"]
    write_record(tmp_path, RUNS[0], [90.0])
    status = status_of(RUNS, tmp_path)
    assert status.of_run(RUNS[0]) == "finished"
    assert status.damaged == [f"record not counted: {path}: Is a directory"]


def test_a_record_counts_in_whatever_folder_it_lies(tmp_path):
    path = write_record(tmp_path, RUNS[0], [90.0])
    moved = tmp_path / "runs" / "adhoc" / path.name
    moved.parent.mkdir()
    path.rename(moved)
    status = status_of(RUNS[:1], tmp_path)
    assert not status.missing
    assert status.paths[RUNS[0].run_id] == moved


def test_a_record_under_another_runs_name_is_damaged(tmp_path):
    write_record(tmp_path, RUNS[0], [90.0]).rename(tmp_path / "runs" / "demo" / f"{RUNS[1].run_id}.json")
    status = status_of(RUNS, tmp_path)
    assert len(status.missing) == 3
    assert RUNS[0].run_id in status.damaged[0]


def test_a_second_record_of_a_run_is_named_and_not_counted(tmp_path):
    first = write_record(tmp_path, RUNS[0], [90.0])
    second = write_record(tmp_path, RUNS[0], [80.0])
    assert second == first.with_suffix(".2.json")
    status = status_of(RUNS, tmp_path)
    assert status.paths[RUNS[0].run_id] == first
    assert status.total() == "3 runs: 1 finished, 2 missing"
    assert status.damaged == [f"record not counted: {second}: the run has a record already, {first}"]


def test_a_retry_counts_and_what_it_retried_stays(tmp_path):
    """The tenth try is later than the second."""
    for _ in range(10):
        last = write_record(tmp_path, RUNS[0], [10.0], status="diverged")
    assert status_of(RUNS, tmp_path).paths[RUNS[0].run_id] == last == last.with_name(f"{RUNS[0].run_id}.10.json")
    finished = write_record(tmp_path, RUNS[0], [90.0])
    status = status_of(RUNS, tmp_path)
    assert status.paths[RUNS[0].run_id] == finished
    assert not status.damaged


def test_a_run_asked_for_twice_is_missing_once(tmp_path):
    assert status_of([RUNS[0], RUNS[0]], tmp_path).missing == [RUNS[0]]


def test_result_without_an_epoch():
    assert result(record_of(RUNS[0], [], "diverged")) == "diverged: the loss is not finite at step 7"


def test_failed_and_running_runs_are_neither_missing_nor_done(tmp_path):
    results, workspace = tmp_path / "results", tmp_path / "work"
    note_failure(RUNS[0].run_id, workspace / RUNS[0].run_id, RuntimeError("boom"))
    with RunLock(workspace / RUNS[1].run_id, 10):
        status = status_of(RUNS, results, workspace)
    assert [status.of_run(run) for run in RUNS] == ["failed", "running", "missing"]
    assert status.missing == [RUNS[2]]
    assert status.select("failed", "missing") == [RUNS[0], RUNS[2]]
    assert status.total() == "3 runs: 1 failed, 1 running, 1 missing"
    lines = list(status.lines())
    assert "failed: RuntimeError: boom" in lines[0]
    assert "log.txt" in lines[0]
    assert "running on" in lines[1]


def test_a_record_outweighs_an_old_failure(tmp_path):
    note_failure(RUNS[0].run_id, tmp_path / "work" / RUNS[0].run_id, RuntimeError("boom"))
    write_record(tmp_path, RUNS[0], [90.0])
    assert status_of(RUNS[:1], tmp_path, tmp_path / "work").of_run(RUNS[0]) == "finished"


def test_records_of_different_data_are_named(tmp_path):
    """Each kind with its runs; records of before, which do not say, are no kind of their own."""
    for run, data in zip(RUNS, ("a" * 64, "b" * 64, "a" * 64), strict=True):
        write_record(tmp_path, run, [90.0], data=data)
    status = status_of(RUNS, tmp_path)
    (sentence,) = status.mixtures().values()
    kinds = f"aaaaaaaaaaaa ({RUNS[0].run_id}, {RUNS[2].run_id}) and bbbbbbbbbbbb ({RUNS[1].run_id})"
    assert all(phrase in sentence for phrase in ("dataset=digits", kinds, "paths.results="))
    assert sentence in list(status.lines())
    with pytest.raises(UsageError, match="of different data"):
        status.check_mixtures()
    same = status_of((RUNS[0], RUNS[2]), tmp_path)
    assert not same.mixtures()
    same.check_mixtures()
    old = write_record(tmp_path / "old", RUNS[0], [90.0])
    assert "data_sha256" not in old.read_text()
    write_record(tmp_path / "old", RUNS[1], [90.0], data="b" * 64)
    assert not status_of(RUNS, tmp_path / "old").mixtures()


def test_many_runs_are_named_in_short():
    assert some(["a", "b", "a"]) == "a, b"
    assert some(["a", "b", "c", "d"]) == "a, b, c and 1 other"
    assert some(list("abcdef")) == "a, b, c and 3 others"


def test_a_line_says_where_each_run_stands(states):
    with RunLock(states / "work" / BOTH[3].run_id, 10):
        status = status_of(BOTH, states / "results", states / "work")
        lines = [*status.lines(), str(status.hours())]
    stands = [line.partition("digits-")[2].partition("  ")[2].strip() for line in lines]
    assert stands[0].startswith("finished: best 90.00 % (epoch 1)")
    assert stands[1].startswith("diverged: ")
    assert stands[2].startswith("failed: RuntimeError: CUDA out of memory (")
    assert stands[2].endswith("log.txt)")
    assert stands[3].startswith("running: epoch 5/20, best 91.50 %, 1:30:00 left, on ")
    assert stands[4] == "missing, interrupted at epoch 10.26/20, best 91.50 %"
    assert stands[5] == "missing"
    assert lines[6] == "6 runs: 1 finished, 1 diverged, 1 failed, 1 running, 2 missing"
    # 1 + 0.5 + 0.5 + 1 spent; sam's own pace gives 1.5 and 0.95, and its third run has nothing to go by.
    assert lines[7] == "3.00 device-hours spent, about 2.45 left, not counting 1 run of cells that none has finished"


def test_finished_runs_of_the_cell_tell_how_long_the_others_take(tmp_path):
    write_record(tmp_path / "results", BOTH[0], [90.0], hours=2.0)
    write_progress(tmp_path / "work" / BOTH[1].run_id, 10, 1800.0)
    status = status_of(BOTH[:3], tmp_path / "results", tmp_path / "work")
    hours = status.hours()
    assert (hours.spent, hours.left, hours.unknown) == (2.5, 3.5, 0)


def test_hours_are_of_every_device(tmp_path):
    """Half an hour on four devices to the middle of a run: two hours, and two to come."""
    write_progress(tmp_path / "work" / BOTH[0].run_id, 10, 1800.0, devices=4)
    status = status_of(BOTH[:1], tmp_path / "results", tmp_path / "work")
    hours = status.hours()
    assert (hours.spent, hours.left, hours.unknown) == (2.0, 2.0, 0)


def test_the_best_so_far_has_its_unit(tmp_path):
    write_progress(tmp_path / "work" / BOTH[0].run_id, 10, 60.0, unit="BLEU")
    status = status_of(BOTH[:1], tmp_path / "results", tmp_path / "work")
    assert status.line(BOTH[0]) == "missing, interrupted at epoch 10/20, best 91.50 BLEU"


@pytest.mark.parametrize(
    ("done", "checkpoints", "line", "left"),
    [
        (10, [20, 40], ", interrupted at epoch 10/20, best 91.50 %, continues from epoch 2", 0.9),
        (10, [205], ", interrupted at epoch 10/20, best 91.50 %, continues from epoch 10.25", 0.4875),
        (10, [], ", interrupted at epoch 10/20, best 91.50 %, starts again", 1.0),
        (0, [10], ", interrupted at epoch 0/20, continues from epoch 0.5", 0.0),
        (0, [], "", 0.0),
    ],
)
def test_an_interrupted_run_continues_from_its_checkpoint(tmp_path, done, checkpoints, line, left):
    """Not from its last evaluation; and what it repeats is still to be spent."""
    folder = tmp_path / "work" / BOTH[0].run_id
    write_progress(folder, done, 180.0 * done, steps_per_epoch=20)
    for step in checkpoints:
        CheckpointStore(folder / "checkpoints").save(step, {})
    status = status_of(BOTH[:1], tmp_path / "results", tmp_path / "work")
    assert status.line(BOTH[0]) == f"missing{line}"
    assert status.hours().left == pytest.approx(left)
    with RunLock(folder, 10):  # while it runs, nothing is lost
        running = status_of(BOTH[:1], tmp_path / "results", tmp_path / "work")
        assert running.hours().left == pytest.approx(0.5 if done else 0.0)


def test_what_an_interrupted_run_repeats_counts_beside_finished_ones(tmp_path):
    write_record(tmp_path / "results", BOTH[0], [90.0], hours=2.0)
    folder = tmp_path / "work" / BOTH[1].run_id
    write_progress(folder, 10, 3600.0, steps_per_epoch=20)
    assert status_of(BOTH[:2], tmp_path / "results", tmp_path / "work").hours().left == pytest.approx(2.0)
    CheckpointStore(folder / "checkpoints").save(100, {})
    assert status_of(BOTH[:2], tmp_path / "results", tmp_path / "work").hours().left == pytest.approx(1.5)


def test_a_missing_run_says_where_its_job_is(states, monkeypatch):
    """Queued, interrupted and queued again, to be tried again, or nobody's."""
    queue = "echo '5_0|PENDING|JobHeldUser'; echo '5_1|PENDING|BeginTime'; echo '5_2|PENDING|Priority'"
    calls = commands(states, monkeypatch, squeue=queue, scontrol="")
    for job, number in (("5_0", 3), ("5_1", 4), ("5_2", 2)):
        Queued(job, None).write(states / "work" / BOTH[number].run_id)
    status = status_of(BOTH, states / "results", states / "work")
    stands = [line.partition("digits-")[2].partition("  ")[2].strip() for line in status.lines()]
    assert stands[2].startswith("failed: RuntimeError: CUDA out of memory (")
    assert stands[2].endswith("; queued: job 5_2 pending (Priority)")
    assert stands[3] == "held: job 5_0 (JobHeldUser), interrupted at epoch 5/20, best 91.50 %"
    assert stands[4] == "queued: job 5_1 pending (BeginTime), interrupted at epoch 10.26/20, best 91.50 %"
    assert stands[5] == "missing: no job"
    assert status.total() == "6 runs: 1 finished, 1 diverged, 1 failed, 3 missing (2 queued)"
    assert calls().count("squeue") == 1
    with RunLock(states / "work" / BOTH[3].run_id, 10):
        assert status_of(BOTH, states / "results", states / "work").line(BOTH[3]).startswith("running: epoch 5/20")
