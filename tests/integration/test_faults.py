"""What ends a run early, done for real: nothing is lost, nothing counts twice, and a line says what happened."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from llqr_sam.engine.loop.gradient_evaluation import GradientEvaluation
from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.loop.run import execute
from llqr_sam.engine.records.checkpoint import CheckpointStore
from llqr_sam.engine.records.record import Record, read_record
from llqr_sam.suite.run.attempt import Job, attempt
from llqr_sam.suite.run.lock import holder
from llqr_sam.suite.run.run_folder import Failure
from llqr_sam.suite.run.worker import SlurmRun
from tests.engine.conftest import StopAt
from tests.processes import start
from tests.suite.jobs import jobs_of, words_in
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

EPOCH = 20  # steps, of digits in minibatches of 64


WORDS = ("optim=llqr_sam", "protocol.methods.interval=8", "protocol.epochs=2")


def job_in(folder: Path, *words: str) -> Job:
    (job,) = jobs_of(folder, *WORDS, *words)
    return job


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The run that nothing happens to."""
    return attempt(job_in(tmp_path_factory.mktemp("straight")))


CHILD = """
import contextlib, os, signal, sys
from llqr_sam.engine.records import checkpoint
from llqr_sam.engine.loop.trainer import Trainer
from llqr_sam.suite.run.attempt import attempt
from llqr_sam.suite.run.attempt import Job

step, where = int(sys.argv[2]), sys.argv[3]
replacing, take = checkpoint.replacing, Trainer._step

@contextlib.contextmanager
def dying_write(path):
    with replacing(path) as file:
        yield file
        if path.name == f"step_{step:09d}.pt":
            os.kill(os.getpid(), signal.SIGKILL)

def dying_step(self, inputs, targets):
    take(self, inputs, targets)
    if self.state.step == step:
        os.kill(os.getpid(), signal.SIGKILL)

if where == "in mid-epoch":
    Trainer._step = dying_step
else:
    checkpoint.replacing = dying_write
attempt(Job.from_json(sys.argv[1]))
"""


@pytest.mark.parametrize("where", ["in mid-epoch", "while a checkpoint is written"])
def test_a_run_killed(where, straight, tmp_path, caplog):
    """By kill -9 after step 27: the checkpoint of step 26 is whole, and the lock of the dead is no obstacle."""
    job = job_in(tmp_path, "checkpoint_minutes=0")
    child = start("-c", CHILD, job.to_json(), str(EPOCH + 7), where)
    _, errors = child.communicate(timeout=PATIENCE)
    assert child.returncode == -signal.SIGKILL, errors
    store = CheckpointStore(job.folder / "checkpoints")
    found = store.load_latest()
    assert found is not None
    assert found[0] == EPOCH + 6
    assert len(list(store.folder.glob("*.tmp"))) == (where != "in mid-epoch")
    assert job.outcome() is None
    with caplog.at_level(logging.WARNING):
        record = attempt(job)
    assert "taken over from" in caplog.text
    assert record.resumes == 1
    assert record.weights_sha256 == straight.weights_sha256
    assert not job.folder.exists()


@pytest.mark.parametrize("how", ["launch=inline", "launch=local"])
def test_a_checkpoint_that_is_not_whole_is_named(how, straight, tmp_path):
    """By the command itself, wherever it trains, and the one before it continues the run."""
    job = job_in(tmp_path)
    for step in (EPOCH, EPOCH + 7):
        with pytest.raises(Interrupted):
            execute(job.settings, job.options, [StopAt(step)])
    newest = job.folder / "checkpoints" / f"step_{EPOCH + 7:09d}.pt"
    os.truncate(newest, 1000)
    process = start("train.py", *words_in(tmp_path, *WORDS, how))
    _, errors = process.communicate(timeout=PATIENCE)
    said = errors if how == "launch=inline" else (job.folder / "log.txt").read_text()
    assert f"checkpoint {newest} is damaged and not used: its SHA-256 is not the one in {newest.name}.sha256" in said
    assert process.returncode == 0
    assert read_record(job.options.record_path).weights_sha256 == straight.weights_sha256


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for one checkpoint and a half."""
    if os.getuid() != 0:
        pytest.skip("a file system of its own needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=768k", "none", str(disk)], check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def on(disk: Path, job: Job) -> Job:
    """The job with its workspace on ``disk``, its record elsewhere."""
    return replace(job, options=replace(job.options, workspace=disk))


def test_a_disk_that_fills_up_with_checkpoints(straight, small_disk, tmp_path, caplog):
    """One that is due but has no room costs a warning; the run goes on and ends as it would have."""
    job = on(small_disk, job_in(tmp_path, "checkpoint_minutes=0"))
    with caplog.at_level(logging.WARNING):
        record = attempt(job)
    assert "the checkpoint of step 2 is not written: [Errno 28] No space left on device" in caplog.text
    assert record.weights_sha256 == straight.weights_sha256


def test_a_disk_without_room_for_the_last_checkpoint(straight, small_disk, tmp_path):
    """A run that must stop and cannot be saved has failed, and says so; the older checkpoint continues it."""
    job = on(small_disk, job_in(tmp_path))
    with pytest.raises(Interrupted):
        execute(job.settings, job.options, [StopAt(EPOCH + 1)])
    with pytest.raises(OSError, match="No space left"):
        execute(job.settings, job.options, [StopAt(EPOCH + 7)])
    found = CheckpointStore(job.folder / "checkpoints").load_latest()
    assert found is not None
    assert found[0] == EPOCH + 1
    assert attempt(job).weights_sha256 == straight.weights_sha256


def test_a_signal_during_the_perturbed_pass(straight, tmp_path, monkeypatch):
    """USR2 while the weights stand at theta + eps: what is saved is the state after the whole step."""
    step, passes = EPOCH + 7, []
    call = GradientEvaluation.__call__

    def warned(self: GradientEvaluation) -> torch.Tensor:
        passes.append(1)
        if len(passes) == 2 * step:
            os.kill(os.getpid(), signal.SIGUSR2)
        return call(self)

    signalled, stopped = job_in(tmp_path / "signalled"), job_in(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(GradientEvaluation, "__call__", warned)
        with pytest.raises(Interrupted) as raised:
            attempt(signalled)
    assert (raised.value.step, raised.value.signum) == (step, signal.SIGUSR2)
    with pytest.raises(Interrupted):
        execute(stopped.settings, stopped.options, [StopAt(step)])
    ours, theirs = (CheckpointStore(job.folder / "checkpoints").load_latest() for job in (signalled, stopped))
    assert ours is not None
    assert theirs is not None
    assert all(torch.equal(ours[1]["model"][name], value) for name, value in theirs[1]["model"].items())
    assert attempt(signalled).weights_sha256 == straight.weights_sha256


def test_a_node_without_the_data(tmp_path, monkeypatch):
    """Its run has failed, with one line; the other node's goes on; ``retry`` tries the first again, elsewhere."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8), random.integers(0, 10, 16)
    (tmp_path / "good").mkdir()
    np.savez(tmp_path / "good" / "cifar10.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    words = ["dataset=cifar10", "arch=resnet18", "arch.width=2", "optim=sgdm", "protocol.epochs=1"]
    first, second = (
        replace(job, options=replace(job.options, data_root=Path("$NODE")))
        for seed in (0, 1)
        for job in jobs_of(tmp_path, *words, "protocol.batch_size=8", f"seed={seed}")
    )
    monkeypatch.setenv("NODE", str(tmp_path / "bad"))
    with pytest.raises(FileNotFoundError):
        SlurmRun(first.to_json())()
    monkeypatch.setenv("NODE", str(tmp_path / "good"))
    assert SlurmRun(second.to_json())() == "finished"
    failure = Failure.read(first.folder)
    assert failure is not None
    assert f"dataset=cifar10 is not at {tmp_path}/bad/cifar10.npz" in failure.error
    assert "\n" not in failure.error
    assert holder(first.folder, 10) is None
    assert SlurmRun(first.to_json())().endswith("left alone")
    assert SlurmRun(replace(first, retries=first.outcome()).to_json())() == "finished"
