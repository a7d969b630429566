"""A table on a real SLURM of one node, some of its jobs preempted: the runs are those of this process, bit for bit."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llqr_sam.engine.record import Record, read_records
from llqr_sam.suite.traces import read_progress
from tests.suite.jobs import REPOSITORY, wait_for

pytestmark = pytest.mark.slurm

START = Path(__file__).with_name("start.sh")
METHODS = "table.methods=[{optim: llqr_sam, geometry: ngd},{optim: sgdm},{optim: sam}]"  # the longest first
TABLE = ("table=demo", METHODS, "table.seeds=[0,1]", "protocol.epochs=4", "protocol.methods.interval=8")
PROFILE = 'time: "10"\nmem: 1GB\ncpus: 1\narray_parallelism: 2\nsignal_delay: 60\n'


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A SLURM for the time of the tests, or a reason to skip them."""
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([START, "start", folder], capture_output=True, text=True, check=False)
    if started.returncode == 3:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    name, _, value = started.stdout.strip().partition("=")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value)
            patch.setenv("OMP_NUM_THREADS", "1")
            yield
    finally:
        subprocess.run([START, "stop", folder], check=True)


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, REPOSITORY / "train.py", "logger=none", "device=cpu", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def launch(folder: Path, *words: str) -> dict[str, str]:
    """Queue; returns job number -> run id."""
    folder.mkdir(exist_ok=True)
    (folder / "profile.yaml").write_text(PROFILE)
    done = train(folder, *words, "launch=slurm", "launch.profile=profile.yaml")
    return dict(line.split() for line in done.stdout.splitlines())  # type: ignore[misc]


def slurm_says(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def records(folder: Path) -> dict[str, Record]:
    found, damaged = read_records(folder / "results" / "runs")
    assert not damaged
    return {record.run_id: record for record in found}


def begun(folder: Path, run_id: str) -> bool:
    return read_progress(folder / "outputs" / "runs" / run_id) is not None


def back_in_the_queue(job: str) -> bool:
    return "JobState=PENDING" in slurm_says("scontrol", "show", "job", job)


@contextlib.contextmanager
def warned_by_slurm(job: str) -> Iterator[None]:
    """Send USR2. scancel would wait for minutes for a job that requeues itself on it, so it is ended here."""
    scancel = subprocess.Popen(["scancel", "--signal=USR2", job], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        scancel.kill()
        scancel.wait()


def hurry(job: str) -> None:
    """SLURM lets a requeued job wait for two minutes."""
    slurm_says("scontrol", "update", f"JobId={job}", "StartTime=now")


def rendered(folder: Path) -> dict[str, bytes]:
    words = [*TABLE, f"paths.results={folder}/results"]
    subprocess.run([sys.executable, REPOSITORY / "scripts" / "render_tables.py", *words], check=True, cwd=folder)
    return {path.name: path.read_bytes() for path in (folder / "results" / "demo").glob("table.*")}


def test_an_array_with_preempted_jobs_gives_the_inline_table(tmp_path):
    queued, inline = tmp_path / "queued", tmp_path / "inline"
    jobs = launch(queued, *TABLE)
    assert len(jobs) == 6
    (first, warned), (second, ended) = list(jobs.items())[:2]
    wait_for(lambda: begun(queued, warned))
    with warned_by_slurm(first):
        wait_for(lambda: begun(queued, ended))
        slurm_says("scontrol", "requeue", second)
        wait_for(lambda: back_in_the_queue(first) and back_in_the_queue(second))
    assert "waiting" in train(queued, *TABLE, "status=true").stdout
    for job in (first, second):
        hurry(job)
    train(inline, *TABLE)
    wait_for(lambda: len(records(queued)) == 6, 120)

    ours, theirs = records(queued), records(inline)
    assert {name: record.weights_sha256 for name, record in ours.items()} == {
        name: record.weights_sha256 for name, record in theirs.items()
    }
    assert ours[warned].resumes == ours[ended].resumes == 1
    assert {record.git_commit for record in ours.values()} == {record.git_commit for record in theirs.values()}
    assert rendered(queued) == rendered(inline)
    assert "6 runs: 6 finished" in train(queued, *TABLE, "launch=slurm").stderr
    wait_for(lambda: not slurm_says("squeue", "--noheader"))


def test_a_cancelled_job_stays_cancelled_and_its_run_waits(tmp_path):
    ((job, run_id),) = launch(tmp_path, "optim=sgdm", "protocol.epochs=100").items()
    wait_for(lambda: begun(tmp_path, run_id))
    assert "running" in train(tmp_path, "optim=sgdm", "protocol.epochs=100", "dry_run=true").stdout
    slurm_says("scancel", job)
    wait_for(lambda: not slurm_says("squeue", "--noheader"))
    folder = tmp_path / "outputs" / "runs" / run_id
    assert list((folder / "checkpoints").glob("*.pt"))
    assert not (folder / "lock.json").exists()
    line = train(tmp_path, "optim=sgdm", "protocol.epochs=100", "dry_run=true").stdout
    assert line.endswith("1 run: 1 missing\n")


def test_queued_jobs_run_the_code_of_the_launch(tmp_path):
    """The package that a job imports is the snapshot, though it starts in the checkout's folder."""
    ((_, run_id),) = launch(tmp_path, "optim=sgdm", "protocol.epochs=1").items()
    wait_for(lambda: run_id in records(tmp_path))
    (snapshot,) = (tmp_path / "outputs" / "runs" / "snapshots").iterdir()
    assert list(snapshot.rglob("__pycache__")) or os.environ.get("PYTHONDONTWRITEBYTECODE")


def test_a_run_on_two_tasks_is_preempted_and_continues(tmp_path):
    """SLURM's warning reaches both ranks; they stop after one step, and the weights are those of two ranks here."""
    words = ("optim=llqr_sam", "protocol.epochs=6", "protocol.methods.interval=8", "devices=2")
    ((job, run_id),) = launch(tmp_path / "queued", *words).items()
    wait_for(lambda: begun(tmp_path / "queued", run_id))
    with warned_by_slurm(job):
        wait_for(lambda: back_in_the_queue(job))
    hurry(job)
    train(tmp_path / "inline", *words)
    wait_for(lambda: run_id in records(tmp_path / "queued"), 120)
    ours, theirs = records(tmp_path / "queued")[run_id], records(tmp_path / "inline")[run_id]
    assert ours.resumes == 1
    assert ours.device == theirs.device
    assert ours.weights_sha256 == theirs.weights_sha256
    wait_for(lambda: not slurm_says("squeue", "--noheader"))
