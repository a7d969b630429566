"""Attempts at real runs of an epoch or two, and what goes wrong with them."""

from __future__ import annotations

import errno
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from llqr_sam.data.streams import MissingDataError
from llqr_sam.engine.loop.gradient_evaluation import GradientEvaluation
from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.records import record as records
from llqr_sam.engine.records.checkpoint import CheckpointStore
from llqr_sam.engine.records.record import CurvePoint, read_record
from llqr_sam.suite.run import attempt as attempting
from llqr_sam.suite.run.attempt import WRONG_DATA, Job, attempt
from llqr_sam.suite.run.lock import LeftAlone, RunLock, holder
from llqr_sam.suite.run.run_folder import Begun, Epochs, Failure, Queued, note_failure
from tests.suite.jobs import jobs_of


def job_of(folder: Path, *words: str) -> Job:
    (job,) = jobs_of(folder, "optim=sgdm", "protocol.epochs=2", *words)
    return job


class Watcher(Observer):
    """Notes lock and progress at each epoch, and stops the run after one if asked."""

    def __init__(self, job: Job, stop: int | None = None) -> None:
        self.job, self.stop = job, stop
        self.seen: list[tuple[bool, int]] = []

    def on_start(self, run: RunInfo) -> None:
        self.request_stop = run.request_stop

    def on_step(self, step: int, loss: float) -> None:
        epochs = Epochs.read(self.job.folder)
        assert epochs is not None
        self.seen.append((holder(self.job.folder, 10) is not None, epochs.done))

    def on_epoch(self, point: CurvePoint) -> None:
        if point.epoch == self.stop:
            self.request_stop()


def test_a_run_is_locked_watched_and_leaves_its_record_alone(tmp_path):
    job = job_of(tmp_path)
    watcher = Watcher(job)
    record = attempt(job, observers=[watcher])
    assert read_record(job.options.record_path) == record
    assert all(locked for locked, _ in watcher.seen)
    assert {done for _, done in watcher.seen} == {0, 1}
    assert not job.folder.exists()


def test_an_interrupted_run_is_free_and_continues(tmp_path):
    job = job_of(tmp_path)
    job.folder.mkdir(parents=True)
    Queued("7_0", "here").write(job.folder)
    with pytest.raises(Interrupted):
        attempt(job, observers=[Watcher(job, stop=1)])
    assert holder(job.folder, 10) is None
    assert Queued.read(job.folder) == Queued("7_0", "here")  # the job may be requeued
    epochs = Epochs.read(job.folder)
    assert epochs is not None
    assert (epochs.done, epochs.planned) == (1, 2)
    assert Begun.read(job.folder) == Begun(job.settings.as_dict(), "adhoc")
    assert attempt(job).resumes == 1
    assert not job.folder.exists()


def test_what_was_a_mistake_of_the_command_is_no_run_that_has_begun(tmp_path):
    job = job_of(tmp_path, "dataset=cifar100", f"paths.data={tmp_path}/none")
    with pytest.raises(MissingDataError):
        attempt(job, WRONG_DATA)
    assert Begun.read(job.folder) is None


def test_a_run_is_left_alone_while_and_after_somebody_else_trains_it(tmp_path):
    job = job_of(tmp_path, "protocol.epochs=1")
    with RunLock(job.folder, 10), pytest.raises(LeftAlone, match="running on"):
        attempt(job)
    attempt(job)
    with pytest.raises(LeftAlone, match="left alone"):
        attempt(job)


class Robbed(Observer):
    """Another process takes the run over after a step, as if this one had been suspended, and is far ahead."""

    def __init__(self, job: Job, step: int, *, notices: bool) -> None:
        self.job, self.step, self.notices = job, step, notices
        self.other = RunLock(job.folder, job.stale_minutes)
        self.store = CheckpointStore(job.folder / "checkpoints")

    def on_start(self, run: RunInfo) -> None:
        self.request_stop = run.request_stop

    def on_step(self, step: int, loss: float) -> None:
        if step == self.step:
            os.utime(self.job.folder / "lock.json", (0, 0))
            self.other.__enter__()
            self.store.save(898, {"step": 898})
            if self.notices:  # as the heartbeat does
                self.request_stop()


@pytest.mark.parametrize(
    ("where", "step"), [("at its next checkpoint", 25), ("at its heartbeat", 25), ("at its end", 40)]
)
def test_a_run_that_was_taken_over_leaves_the_others_checkpoints_alone(where, step, tmp_path):
    """A saves step 25 on waking up; B, who has the run, is at 898."""
    job = job_of(tmp_path, f"checkpoint_minutes={0 if where == 'at its next checkpoint' else 10}")
    robbed = Robbed(job, step, notices=where == "at its heartbeat")
    with pytest.raises(LeftAlone, match=f"taken over by .* \\(process {os.getpid()}\\): left alone"):
        attempt(job, observers=[robbed])
    assert robbed.store.load_latest() == (898, {"step": 898})
    assert not (job.folder / "checkpoints" / f"step_{step:09d}.pt").exists()
    assert holder(job.folder, 10) == robbed.other.owner
    assert job.outcome() is None
    robbed.other.__exit__()


def test_nan_in_one_batch_is_recorded_and_retried_only_when_asked(tmp_path, monkeypatch):
    job = job_of(tmp_path)
    take, batches = GradientEvaluation.take, []

    def spoiling(self, inputs, targets):
        batches.append(1)
        take(self, inputs * math.nan if len(batches) == 25 else inputs, targets)

    monkeypatch.setattr(GradientEvaluation, "take", spoiling)
    record = attempt(job)
    assert record.status == "diverged"
    assert "step 24" in str(record.error)
    with pytest.raises(LeftAlone):
        attempt(job)
    again = replace(job, retries=job.outcome())
    assert attempt(again).status == "finished"
    assert read_record(job.options.record_path) == record
    assert job.record_file() == job.options.record_path.with_suffix(".2.json")
    with pytest.raises(LeftAlone):  # the other of two launches that retry
        attempt(again)


def test_a_failure_is_noted_and_gone_with_the_next_success(tmp_path, monkeypatch):
    job = job_of(tmp_path, "protocol.epochs=1")

    def broken(*_: object) -> None:
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(attempting, "execute", broken)
        with pytest.raises(RuntimeError):
            attempt(job)
    failure = Failure.read(job.folder)
    assert failure is not None
    assert failure.error == "RuntimeError: CUDA out of memory"
    assert holder(job.folder, 10) is None
    with pytest.raises(LeftAlone):
        attempt(job)
    attempt(replace(job, retries=job.outcome()))
    assert Failure.read(job.folder) is None


def test_a_retry_that_is_interrupted_has_not_failed(tmp_path):
    """And goes on without another retry, as after a requeue: the job's digest is of a failure that is gone."""
    job = job_of(tmp_path)
    note_failure(job.run_id, job.folder, RuntimeError("CUDA out of memory"))
    again = replace(job, retries=job.outcome())
    with pytest.raises(Interrupted):
        attempt(again, observers=[Watcher(job, stop=1)])
    assert Failure.read(job.folder) is None
    assert "CUDA out of memory" in (job.folder / "log.txt").read_text()
    assert attempt(again).resumes == 1


def test_a_mistake_leaves_no_note(tmp_path):
    job = job_of(tmp_path, "dataset=cifar10", "arch=resnet18")
    with pytest.raises(FileNotFoundError):
        attempt(job, mistakes=(FileNotFoundError,))
    assert job.outcome() is None
    with pytest.raises(FileNotFoundError):
        attempt(job)  # the data folder is missing on one node
    failure = Failure.read(job.folder)
    assert failure is not None
    assert "prepare_data.py cifar10" in failure.error


def test_a_record_that_can_be_written_nowhere(tmp_path, monkeypatch):
    """The last checkpoint stands, and the next attempt ends with the weights that the run would have had."""
    straight = attempt(job_of(tmp_path / "straight"))
    job = job_of(tmp_path, "checkpoint_minutes=0")

    def full(path: Path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(records, "creating", full)
        patch.setattr(records, "replacing", full)
        with pytest.raises(OSError, match="No space left on device; nor .* continues from the last checkpoint"):
            attempt(job)
    assert job.outcome() is None
    record = attempt(job)
    assert record.resumes == 1
    assert record.weights_sha256 == straight.weights_sha256


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system of its own")
def test_a_disk_that_is_really_full(tmp_path):
    """The lock cannot even be taken: the message says so, and nothing is left that stops the next attempt."""
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    job = job_of(disk, "protocol.epochs=1")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        with pytest.raises(OSError, match="No space"):
            attempt(job)
        filler.unlink()
        job.folder.mkdir(parents=True, exist_ok=True)
        assert not list(job.folder.iterdir())
        with RunLock(job.folder, 10):
            pass
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_code_of_the_launch_is_the_records(tmp_path):
    job = job_of(tmp_path, "protocol.epochs=1")
    launched = replace(job, options=replace(job.options, git=("abc", True)))
    record = attempt(launched)
    assert (record.git_commit, record.git_dirty) == ("abc", True)
