"""SLURM's warning while a job starts: with plain processes here, on a real SLURM in tests/integration/slurm."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llqr_sam.suite.run.lock import holder
from llqr_sam.suite.run.run_folder import Failure
from llqr_sam.suite.run.worker import PYTHON, SlurmRun
from tests.processes import start
from tests.suite.jobs import jobs_of
from tests.suite.slurm import commands
from tests.waiting import PATIENCE, wait_for


def blocks_usr2(process: subprocess.Popen[str]) -> bool:
    """Whether a process has come as far as to block USR2."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return bool(int(status["SigBlk"], 16) >> (signal.SIGUSR2 - 1) & 1)


def srun(*arguments: str) -> subprocess.Popen[str]:
    """What srun starts."""
    _, *flags = shlex.split(PYTHON)
    return start(*flags, *arguments)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says which signals a process blocks")
def test_a_signal_at_the_start_waits_for_its_handler():
    """The process does not die, is Python as ever, and gets the signal when it unblocks it."""
    code = """import signal, sys, torch
signal.signal(signal.SIGUSR2, lambda *_: print("warned", flush=True))
print(sys.argv[1:], flush=True)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})"""
    process = srun("-c", code, "a b")
    wait_for(lambda: blocks_usr2(process))
    process.send_signal(signal.SIGUSR2)
    assert process.communicate(timeout=PATIENCE)[0] == "['a b']\nwarned\n"
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc says which signals a process blocks")
def test_a_job_that_is_warned_as_it_starts_requeues_itself(tmp_path, monkeypatch):
    """submitit's own process, with its handler; nothing has failed, and the run is free."""
    from submitit.core.utils import DelayedSubmission, JobPaths

    (job,) = jobs_of(tmp_path, "optim=sgdm", "protocol.epochs=10000")
    delayed = DelayedSubmission(SlurmRun(job.to_json()))
    delayed.set_timeout(1, 1000)
    delayed.dump(JobPaths(tmp_path, "8_1").submitted_pickle)
    commands(tmp_path, monkeypatch, scontrol=f'echo "$@" >>{tmp_path}/asked', srun="")
    slurm = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "1", "SUBMITIT_EXECUTOR": "slurm"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    process = srun("-u", "-m", "submitit.core._submit", os.fspath(tmp_path))
    wait_for(lambda: blocks_usr2(process))
    process.send_signal(signal.SIGUSR2)
    _, errors = process.communicate(timeout=PATIENCE)
    assert (tmp_path / "asked").read_text() == "requeue 8_1\n", errors
    assert process.returncode != -signal.SIGUSR2
    assert Failure.read(job.folder) is None
    assert holder(job.folder, 10) is None
