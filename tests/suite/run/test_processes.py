"""Runs on two processes of the CPU, and what happens to them."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from llqr_sam.engine.records.record import Record, read_record
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.plan.plan import plan
from llqr_sam.suite.run.attempt import Job
from llqr_sam.suite.run.lock import RunLock, holder
from llqr_sam.suite.run.processes import train
from llqr_sam.suite.run.run_folder import Epochs, Failure
from tests.processes import start
from tests.suite.jobs import jobs_of, words_in
from tests.suite.run.test_lock import write_lock
from tests.waiting import PATIENCE, wait_for

SMALL = ("arch.width=4", "protocol.methods.interval=8")
LONG = (*SMALL, "optim=llqr_sam", "optim.inner_steps=2", "optim.shard=true", "devices=2", "protocol.epochs=4")


def command(folder: Path, *words: str) -> list[str]:
    return ["train.py", *words_in(folder, *words)]


def job_of(folder: Path, *words: str) -> Job:
    (job,) = jobs_of(folder, *words)
    return job


def trained(job: Job) -> Record:
    """Train to the end in this process and its ranks."""
    reply = train(job)
    assert reply.kind == "finished", reply
    return read_record(job.options.record_path)


def record_of(folder: Path, *words: str) -> Record:
    """Train to the end."""
    process = start(*command(folder, *words))
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    return read_record(job_of(folder, *words).options.record_path)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The long run, never disturbed."""
    return record_of(tmp_path_factory.mktemp("straight"), *LONG)


def numbers_of(launcher: int) -> list[int]:
    """Process numbers of the ranks that a process has started, in order."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    words = {int(child): Path(f"/proc/{child}/cmdline").read_text().split("\0") for child in children}
    found = {int(line[3]): child for child, line in words.items() if "llqr_sam.suite.run.worker" in line}
    return [found[rank] for rank in sorted(found)]


def begun(job: Job) -> bool:
    epochs = Epochs.read(job.folder)
    return epochs is not None and epochs.done > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("optim=sgdm",),
        ("optim=sam",),
        ("optim=llqr_sam", "optim.inner_steps=5"),
        ("optim=llqr_sam", "optim.inner_steps=5", "optim.shard=true"),
    ],
    ids=["sgdm", "sam", "llqr_sam", "sharded"],
)
def test_two_processes_are_one(tmp_path, words):
    """The same run id, losses and accuracy, to rounding in float32 over an epoch of 20 steps."""
    common = [word for word in words if word != "optim.shard=true"]
    one = trained(job_of(tmp_path / "one", *SMALL, *common, "protocol.epochs=1"))
    two = trained(job_of(tmp_path / "two", *SMALL, *words, "protocol.epochs=1", "devices=2"))
    assert two.run_id == one.run_id
    assert (one.devices, two.devices, two.device) == (1, 2, f"2 x {one.device}")
    (expected,), (found,) = one.metrics.curve, two.metrics.curve
    assert found.train_loss == pytest.approx(expected.train_loss, abs=1e-5)
    assert found.test_loss == pytest.approx(expected.test_loss, abs=1e-5)
    assert found.top1 == pytest.approx(expected.top1, abs=0.5)  # one or two of 500 images may lie on a border
    for refresh, expected_refresh in zip(two.refreshes, one.refreshes, strict=True):
        assert refresh.objective_after == pytest.approx(expected_refresh.objective_after, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_continues_bit_for_bit(tmp_path, straight, signum):
    job = job_of(tmp_path, *LONG)
    launcher = start(*command(tmp_path, *LONG))
    wait_for(lambda: begun(job))
    launcher.send_signal(signum)
    _, error = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 130, error
    assert error.splitlines()[-1].startswith(f"interrupted: stopped by {signum.name} after step ")
    assert holder(job.folder, 10) is None
    record = record_of(tmp_path, *LONG)
    assert record.resumes == 1
    assert record.weights_sha256 == straight.weights_sha256


@pytest.mark.slow
def test_a_run_that_ends_on_another_number_of_devices_records_that(tmp_path):
    words = [word for word in LONG if not word.startswith(("devices", "optim.shard"))]
    job = job_of(tmp_path, *words, "devices=2")
    launcher = start(*command(tmp_path, *words, "devices=2"))
    wait_for(lambda: begun(job))
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=PATIENCE)
    progress = Epochs.read(job.folder)
    assert progress is not None
    assert progress.devices == 2
    record = record_of(tmp_path, *words)
    assert (record.run_id, record.resumes, record.devices) == (job.run_id, 1, 1)
    assert record.device_seconds == record.seconds.total


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_run_with_one_line(tmp_path, straight, rank):
    """And the next launch continues from the last checkpoint, to the same weights."""
    words = (*LONG, "checkpoint_minutes=0")
    job = job_of(tmp_path, *words)
    launcher = start(*command(tmp_path, *words))
    wait_for(lambda: begun(job))

    os.kill(numbers_of(launcher.pid)[rank], signal.SIGKILL)
    _, error = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 1, error
    assert error.splitlines()[-1] == f"{job.label}: rank {rank} ended with SIGKILL; the next launch continues the run"
    assert "Traceback" not in error
    assert Failure.read(job.folder) is None
    record = record_of(tmp_path, *words)
    assert record.resumes == 1
    assert record.weights_sha256 == straight.weights_sha256


@pytest.mark.slow
def test_ranks_whose_launcher_is_killed_save_the_run_and_end(tmp_path, straight):
    job = job_of(tmp_path, *LONG)
    launcher = start(*command(tmp_path, *LONG))
    wait_for(lambda: begun(job))
    numbers = numbers_of(launcher.pid)
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not any(Path(f"/proc/{number}").exists() for number in numbers))
    assert holder(job.folder, 10) is None
    assert record_of(tmp_path, *LONG).weights_sha256 == straight.weights_sha256


@pytest.mark.slow
def test_a_run_on_a_local_worker(tmp_path):
    words = (*SMALL, "optim=sgdm", "protocol.epochs=1", "devices=2", "launch=local")
    assert record_of(tmp_path, *words).status == "finished"
    assert "top-1" in (job_of(tmp_path, *words).folder / "log.txt").read_text()


@pytest.mark.slow
def test_an_error_of_the_ranks_is_the_runs(tmp_path):
    """A preconditioner minibatch larger than the data is found on each rank."""
    job = job_of(tmp_path, *SMALL, "optim=llqr", "protocol.methods.refresh_batch=100000", "devices=2")
    reply = train(job)
    assert reply.kind == "failed"
    assert "100000" in reply.reason
    failure = Failure.read(job.folder)
    assert failure is not None
    assert failure.error.startswith("SettingError: ")
    assert "100000" in failure.error


@pytest.mark.slow
def test_all_ranks_hear_that_a_run_is_somebody_elses(tmp_path):
    """The launcher has not seen it yet: the first rank finds the lock."""
    job = job_of(tmp_path, *SMALL, "optim=sgdm", "devices=2")
    with RunLock(job.folder, 10):
        reply = train(job)
    assert reply.kind == "left"
    assert "running on" in reply.reason


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [0, 10])
def test_all_ranks_end_when_the_first_one_loses_the_lock(minutes, tmp_path):
    """At its next checkpoint, or when all stop because its heart finds another's lock."""
    words = [*LONG, "protocol.epochs=10000", "stale_minutes=0.02", f"checkpoint_minutes={minutes}"]
    job = job_of(tmp_path, *words)
    process = start(*command(tmp_path, *words))
    wait_for(lambda: begun(job))
    other = write_lock(job.folder)
    _, error = process.communicate(timeout=PATIENCE)
    assert f"{job.label}: taken over by {other}: left alone" in error
    assert (process.returncode, holder(job.folder, 10)) == (0, other)
    assert job.outcome() is None


def refused(*words: str) -> str:
    all_words = ["logger=none", *words]
    with pytest.raises(UsageError) as error:
        plan(Command.of(*all_words))
    return str(error.value)


@pytest.mark.slow
def test_a_lost_rank_is_one_line_and_the_next_launch_continues(tmp_path):
    """The quick form of the slow tests above: rank 1 is killed before its first checkpoint."""
    job = job_of(tmp_path, *SMALL, "optim=sgdm", "devices=2", "protocol.epochs=1")

    def kill() -> None:
        wait_for((job.folder / "progress.json").exists)
        os.kill(numbers_of(os.getpid())[1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    reply = train(job)
    killer.join()
    assert (reply.kind, reply.reason) == ("killed", "rank 1 ended with SIGKILL; the next launch continues the run")
    assert job.outcome() is None
    assert train(job).kind == "finished"


def test_what_does_not_divide_is_refused():
    assert "devices=3 must divide protocol.batch_size=64" in refused("devices=3")
    assert "devices=4 must divide optim.refresh_batch=66" in refused("devices=4", "protocol.methods.refresh_batch=66")
    assert "devices=0 must be >= 1" in refused("devices=0")
    assert "precision.accumulate=33 must be at most 32" in refused("devices=2", "precision.accumulate=33")
    assert "needs devices > 1" in refused("optim.shard=true")
    assert "no use with optim=sgdm" in refused("optim=sgdm", "optim.shard=true", "devices=2")


def test_fewer_gpus_than_devices_is_one_line(tmp_path):
    launcher = start(*command(tmp_path, "devices=4", "device=cuda"))
    _, error = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 2
    assert error.startswith("error: devices=4 on one machine: this one has ")
    assert error.count("\n") == 1
