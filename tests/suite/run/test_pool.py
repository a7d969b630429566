"""A pool of real workers."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from llqr_sam.engine.records.record import read_record
from llqr_sam.repository import ROOT
from llqr_sam.suite.run import processes
from llqr_sam.suite.run.lock import holder
from llqr_sam.suite.run.processes import Pool, worker_environments
from llqr_sam.suite.run.run_folder import Epochs
from tests.processes import start
from tests.suite.jobs import jobs_of, words_in
from tests.waiting import PATIENCE, wait_for

TABLE = ("table=demo", "table.methods=[{optim: sgdm}]", "table.seeds=[0,1,2]")
ONE = [{"OMP_NUM_THREADS": "1"}]


def pool(workers: int) -> Pool:
    return Pool(ONE * workers, ROOT)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[processes.Worker]:
    """The workers that a pool starts, in order."""
    workers = []

    class Recording(processes.Worker):
        def __init__(self, variables: dict[str, str]) -> None:
            super().__init__(variables)
            workers.append(self)

    monkeypatch.setattr(processes, "Worker", Recording)
    monkeypatch.setattr(processes, "PATIENCE", PATIENCE)  # none is killed because the machine is busy
    return workers


@pytest.mark.slow
def test_a_queue_longer_than_the_pool(tmp_path):
    """Two processes train three runs."""
    jobs = jobs_of(tmp_path, *TABLE, "protocol.epochs=1")
    replies = {job.run_id: reply.kind for job, reply in pool(2).run(jobs)}
    assert replies == {job.run_id: "finished" for job in jobs}
    records = [read_record(job.options.record_path) for job in jobs]
    assert len({record.weights_sha256 for record in records}) == 3


@pytest.mark.slow
def test_a_killed_worker_takes_one_run_with_it_and_the_next_launch_continues_it(tmp_path, started):
    jobs = jobs_of(tmp_path, *TABLE, "protocol.epochs=6", "checkpoint_minutes=0")
    replies = {}
    running = pool(1).run(jobs)
    victim = jobs[1]

    def kill() -> None:
        wait_for(lambda: (epochs := Epochs.read(victim.folder)) and epochs.done)
        os.kill(started[0].process.pid, signal.SIGKILL)

    for job, reply in running:
        replies[job.run_id] = reply
        if job is jobs[0]:
            # The next has just not been handed out: `run` does so when it is asked to go on.
            threading.Thread(target=kill).start()
    assert [replies[job.run_id].kind for job in jobs] == ["finished", "killed", "finished"]
    assert "SIGKILL" in replies[victim.run_id].reason
    assert holder(victim.folder, 10) is None  # its process is dead
    assert victim.outcome() is None
    ((_, reply),) = pool(1).run([victim])
    assert reply.kind == "finished"
    record = read_record(victim.options.record_path)
    assert record.resumes == 1
    straight = jobs_of(tmp_path / "straight", *TABLE, "protocol.epochs=6")[1]
    list(pool(1).run([straight]))
    assert read_record(straight.options.record_path).weights_sha256 == record.weights_sha256


REFUSED = """
from llqr_sam.engine.loop.trainer import Trainer

train = Trainer.run

def refused(self):
    if self.settings.seed == 0:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    train(self)

Trainer.run = refused
"""


@pytest.mark.slow
def test_a_worker_that_cuda_refuses_is_replaced(tmp_path, monkeypatch, started):
    """The second of three runs goes on in the process of the first no more; the third in that of the second."""
    (tmp_path / "sitecustomize.py").write_text(REFUSED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    jobs = jobs_of(tmp_path, *TABLE, "protocol.epochs=1")
    replies = [reply for _, reply in pool(1).run(jobs)]
    assert [(reply.kind, reply.ends) for reply in replies] == [
        ("failed", True),
        ("finished", False),
        ("finished", False),
    ]
    assert replies[0].reason.startswith("DeviceLost: CUDA error: an illegal memory access")
    assert len(started) == 2
    assert started[0].process.returncode == 0, "it ended by itself"


@pytest.mark.slow
def test_ctrl_c_saves_every_run_and_ends(tmp_path):
    words = words_in(tmp_path, *TABLE, "protocol.epochs=10000", "launch=local")
    launcher = start("train.py", *words)
    jobs = jobs_of(tmp_path, *TABLE, "protocol.epochs=10000")
    wait_for(lambda: all((epochs := Epochs.read(job.folder)) and epochs.done for job in jobs[:2]))
    launcher.send_signal(signal.SIGINT)
    _, error = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 130, error
    assert "interrupted: the same command continues" in error
    for job in jobs[:2]:
        assert holder(job.folder, 10) is None
        assert list((job.folder / "checkpoints").glob("*.pt"))
    assert not jobs[2].folder.exists()


@pytest.mark.slow
def test_a_missing_data_set_stops_the_launch_with_one_line(tmp_path):
    words = words_in(tmp_path, "table=8", "arch=resnet18", "optim=sgdm", "table.seeds=[0,1]", "launch=local")
    launcher = start("train.py", *words, f"paths.data={tmp_path}/none")
    _, error = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 2, error
    assert error.splitlines()[-1].startswith("error: ")
    assert "prepare_data.py cifar" in error


def test_each_worker_has_its_gpus_and_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cores = len(os.sched_getaffinity(0))
    threads = str(max(1, cores // 2))
    assert worker_environments(None, "cpu") == [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}] * 2
    assert len(worker_environments(5, "cpu")) == 5
    assert len(worker_environments(None, "cuda:1")) == 1
    assert [variables["OMP_NUM_THREADS"] for variables in worker_environments(None, "cpu", 2)] == [threads]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in worker_environments(None, "auto")] == ["0", "1"]
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in worker_environments(3, "cuda")] == ["0", "1", "0"]
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in worker_environments(None, "auto", 2)] == ["0,1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5f")
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in worker_environments(None, "auto")] == ["3", "GPU-5f"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert worker_environments(2, "cpu")[0]["OMP_NUM_THREADS"] == "7"
