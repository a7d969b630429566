"""The worker process, as a launcher and as SLURM start it."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
from pathlib import Path

import pytest

from llqr_sam.engine.records.checkpoint import CheckpointStore
from llqr_sam.engine.records.record import read_record
from llqr_sam.suite.run.attempt import Reply
from llqr_sam.suite.run.lock import RunLock, holder
from llqr_sam.suite.run.run_folder import Epochs, Failure
from llqr_sam.suite.run.worker import SlurmRun, carry_out
from tests.processes import start
from tests.suite.jobs import jobs_of
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.slow


def worker() -> subprocess.Popen[str]:
    return start("-m", "llqr_sam.suite.run.worker", stdin=subprocess.PIPE)


def test_a_worker_takes_a_run_a_line(tmp_path):
    first, second = jobs_of(tmp_path, "table=demo", "optim=sgdm", "table.seeds=[0,1]", "protocol.epochs=1")
    process = worker()
    assert process.stdin is not None
    assert process.stdout is not None
    with RunLock(second.folder, 10):
        process.stdin.write(f"{first.to_json()}\n{second.to_json()}\n")
        process.stdin.flush()
        replies = [Reply(**json.loads(process.stdout.readline())) for _ in range(2)]
    rest, errors = process.communicate(timeout=PATIENCE)
    assert [reply.kind for reply in replies] == ["finished", "left"]
    assert replies[0].reason.startswith("best ")
    assert read_record(first.options.record_path).status == "finished"
    assert "epoch 1/1" in (first.folder / "log.txt").read_text()
    assert (rest, errors, process.returncode) == ("", "", 0)


def test_a_worker_whose_launcher_dies_right_after_handing_over_ends_too(tmp_path):
    (job,) = jobs_of(tmp_path, "optim=sgdm", "protocol.epochs=10000")
    worker().communicate(job.to_json() + "\n", timeout=PATIENCE)
    assert job.outcome() is None
    assert holder(job.folder, 10) is None


def test_failures_and_mistakes_are_replies(tmp_path):
    (failing,) = jobs_of(tmp_path, "optim=llqr", "protocol.methods.refresh_batch=100000")
    assert carry_out(failing.to_json()).kind == "failed"
    assert Failure.read(failing.folder) is not None
    (lacking,) = jobs_of(tmp_path, "dataset=cifar10", "arch=resnet18")
    reply = carry_out(lacking.to_json())
    assert reply.kind == "mistake"
    assert "prepare_data.py cifar10" in reply.reason
    assert carry_out("{}").kind == "failed"


@pytest.mark.parametrize("how", ["signal", "launcher dies"])
def test_a_worker_that_must_end_saves_its_run(tmp_path, how):
    (job,) = jobs_of(tmp_path, "optim=sgdm", "protocol.epochs=10000")
    process = worker()
    assert process.stdin is not None
    process.stdin.write(job.to_json() + "\n")
    process.stdin.flush()
    wait_for(lambda: (epochs := Epochs.read(job.folder)) and epochs.done)
    if how == "signal":
        process.send_signal(signal.SIGTERM)
    else:
        process.stdin.close()
    process.wait(PATIENCE)
    *_, last = (job.folder / "log.txt").read_text().splitlines()
    assert last.startswith("interrupted: stopped by SIGTERM after step ")
    assert CheckpointStore(job.folder / "checkpoints").load_latest() is not None
    assert holder(job.folder, 10) is None


def scontrol(folder: Path, state: str) -> Path:
    """A scontrol that knows one job in a state and notes what it is asked for."""
    path = folder / "bin" / "scontrol"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\necho "$@" >>{folder}/asked\necho "JobState={state} Reason=None"\n')
    path.chmod(0o755)
    return path.parent


@pytest.mark.parametrize(("state", "requeues"), [("RUNNING", True), ("COMPLETING", False)])
def test_a_preempted_slurm_job_saves_and_requeues_itself(tmp_path, state, requeues):
    """And one that was cancelled only saves (SLURM says COMPLETING of it)."""
    (job,) = jobs_of(tmp_path, "optim=sgdm", "protocol.epochs=10000")
    code = "import sys; from llqr_sam.suite.run.worker import SlurmRun; SlurmRun(sys.argv[1])()"
    slurm = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "1"}
    path = {"PATH": f"{scontrol(tmp_path, state)}:{os.environ['PATH']}"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (slurm | path).items():
            patch.setenv(name, value)
        process = start("-c", code, job.to_json())
    wait_for(lambda: (epochs := Epochs.read(job.folder)) and epochs.done)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(PATIENCE) == (0 if requeues else 1)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["show job 8_1", "requeue 8_1"][: 1 + requeues]
    assert holder(job.folder, 10) is None
    assert "stopped by SIGUSR2" in (job.folder / "log.txt").read_text()


def test_slurms_runs_are_pickled_by_name_and_text(tmp_path):
    (job,) = jobs_of(tmp_path, "optim=sgdm", "protocol.epochs=1")
    again = pickle.loads(pickle.dumps(SlurmRun(job.to_json())))
    assert again() == "finished"
    assert again().startswith("done meanwhile")
    assert again.checkpoint().function is again
