"""Runs on a real SLURM of one node, preempted, timed out or cancelled: they end as they do here, bit for bit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llqr_sam.engine.records.record import Record, read_records
from llqr_sam.suite.run.lock import holder
from llqr_sam.suite.run.run_folder import Epochs
from tests.processes import REPOSITORY
from tests.waiting import wait_for

pytestmark = pytest.mark.slurm

START = Path(__file__).with_name("start.sh")
METHODS = "table.methods=[{optim: llqr_sam, geometry: ngd},{optim: sgdm},{optim: sam}]"  # the longest first
TABLE = ("table=demo", METHODS, "table.seeds=[0,1]", "protocol.epochs=4", "protocol.methods.interval=8")
PROFILE = 'time: "10"\nmem: 1GB\ncpus: 1\narray_parallelism: 2\nsignal_delay: 60\n'
SHORT = PROFILE.replace('"10"', '"1"').replace("60", "20")  # the warning comes 10 to 40 seconds after the start


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[None]:
    """A SLURM for the time of the tests, or a reason to skip them."""
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([START, "start", folder], capture_output=True, text=True, check=False)
    if started.returncode == 3 or (started.returncode == 4 and not pytestconfig.getoption("--require-slurm")):
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


def launch(folder: Path, *words: str, profile: str = PROFILE) -> dict[str, str]:
    """Queue; returns job number -> run id."""
    folder.mkdir(exist_ok=True)
    (folder / "profile.yaml").write_text(profile)
    done = train(folder, *words, "launch=slurm", "launch.profile=profile.yaml")
    return {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines()}


def one(method: str) -> tuple[str, ...]:
    """A table of one run, for the status of a run is shown with its table's."""
    return "table=demo", f"table.methods=[{method}]", "table.seeds=[0]"


def slurm_says(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def records(folder: Path) -> dict[str, Record]:
    found, damaged = read_records(folder / "results" / "runs")
    assert not damaged
    return {record.run_id: record for record in found}


def begun(folder: Path, run_id: str) -> bool:
    return Epochs.read(folder / "outputs" / "runs" / run_id) is not None


def is_queued(job: str) -> bool:
    """Whether it waits, runs or is ending."""
    return job.partition("_")[0] in slurm_says("squeue", "--noheader", "--format=%F").split()


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
    """SLURM lets a requeued job wait for two minutes. In seconds: in the one it ended in, it is refused."""
    time.sleep(1)
    slurm_says("scontrol", "update", f"JobId={job}", "StartTime=now")


def freeze_after_an_epoch(folder: Path) -> None:
    """Stop a run's process until SLURM, which wakes what it signals: runs of seconds do not wait for a test."""
    wait_for(lambda: (epochs := Epochs.read(folder)) and epochs.done)
    owner = holder(folder, 10)
    assert owner is not None
    os.kill(owner.pid, signal.SIGSTOP)


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
    assert "missing" in train(queued, *TABLE, "status=true").stdout
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


def test_a_job_whose_time_is_up_continues_in_the_queue(tmp_path):
    """SLURM warns it, it saves and requeues itself, and the run ends as if it had never stopped."""
    queued, inline = tmp_path / "queued", tmp_path / "inline"
    words = (*one("{optim: llqr_sam, geometry: ngd}"), "protocol.epochs=4", "protocol.methods.interval=8")
    ((job, run_id),) = launch(queued, *words, profile=SHORT).items()
    folder = queued / "outputs" / "runs" / run_id
    freeze_after_an_epoch(folder)
    train(inline, *words)
    wait_for(lambda: back_in_the_queue(job))
    assert "stopped by SIGUSR2" in (folder / "log.txt").read_text()
    assert "missing" in train(queued, *words, "status=true").stdout
    hurry(job)
    wait_for(lambda: run_id in records(queued))
    ours, theirs = records(queued)[run_id], records(inline)[run_id]
    assert ours.resumes == 1
    assert ours.weights_sha256 == theirs.weights_sha256
    assert [point.top1 for point in ours.metrics.curve] == [point.top1 for point in theirs.metrics.curve]


def test_a_cancelled_job_stays_cancelled_until_the_run_is_launched_again(tmp_path):
    words = (*one("{optim: sgdm}"), "protocol.epochs=40")
    ((job, run_id),) = launch(tmp_path, *words).items()
    folder = tmp_path / "outputs" / "runs" / run_id
    freeze_after_an_epoch(folder)
    assert "running" in train(tmp_path, *words, "dry_run=true").stdout
    slurm_says("scancel", job)
    wait_for(lambda: not is_queued(job))
    assert list((folder / "checkpoints").glob("*.pt"))
    assert not (folder / "lock.json").exists()
    assert train(tmp_path, *words, "dry_run=true").stdout.endswith("1 run: 1 missing\n")
    gone = f"no job: {job} is not in the queue any more, interrupted at epoch"
    assert gone in train(tmp_path, *words, "status=true").stdout
    launch(tmp_path, *words)
    wait_for(lambda: run_id in records(tmp_path))
    assert records(tmp_path)[run_id].resumes == 1


def test_a_job_that_is_warned_as_it_starts_continues_in_the_queue(tmp_path):
    """Held, released, and warned while Python starts; status says where the job is, and no other is queued."""
    words = (*one("{optim: sgdm}"), "protocol.epochs=1")
    ((job, run_id),) = launch(tmp_path, *words, profile=f"{PROFILE}sbatch: {{hold: true}}\n").items()

    def status() -> str:
        return train(tmp_path, *words, "status=true").stdout

    assert f"{run_id}  held: job {job} (JobHeldUser)" in status()
    assert f"held: job {job} (JobHeldUser): left alone" in train(tmp_path, *words, "launch=slurm").stderr
    slurm_says("scontrol", "release", job)
    log = tmp_path / "outputs" / "runs" / "slurm" / f"{job}_0_log.out"
    wait_for(lambda: log.exists() and "Loading pickle" in log.read_text())  # next is torch, and then a handler
    with warned_by_slurm(job):
        wait_for(lambda: back_in_the_queue(job))
    assert f"{run_id}  queued: job {job} pending (BeginTime)" in status()
    assert not records(tmp_path)
    hurry(job)
    wait_for(lambda: run_id in records(tmp_path))
    assert "1 run: 1 finished" in status()
    assert not (tmp_path / "outputs" / "runs" / run_id / "queue.json").exists()


def test_hydras_own_launcher_queues_a_sweep_and_waits_for_it(tmp_path):
    asked = ("hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=10", "hydra.launcher.mem_gb=1")
    train(tmp_path, "-m", "optim=sgdm", "seed=0,1", "protocol.epochs=1", *asked)
    assert {record.config["seed"] for record in records(tmp_path).values()} == {0, 1}


def test_queued_jobs_run_the_code_of_the_launch(tmp_path):
    """A job imports from the snapshot, though it starts in the checkout."""
    ((_, run_id),) = launch(tmp_path, "optim=sgdm", "protocol.epochs=1").items()
    (snapshot,) = (tmp_path / "outputs" / "runs" / "snapshots").iterdir()
    wait_for(lambda: run_id in records(tmp_path))
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
