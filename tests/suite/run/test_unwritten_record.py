"""A run that has ended and cannot write its record: nothing of it is lost, and it is not trained again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llqr_sam.engine.observers.observer import Observer
from llqr_sam.engine.records.record import KEPT, CurvePoint, read_record
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.launch.launch import launch
from llqr_sam.suite.plan.plan import plan
from llqr_sam.suite.run.attempt import attempt
from llqr_sam.suite.run.worker import SlurmRun
from tests.processes import start
from tests.suite.jobs import jobs_of, words_in
from tests.suite.records import status_of
from tests.waiting import PATIENCE

RUN = ("optim=sgdm", "protocol.epochs=1")


def launched(folder: Path, *words: str) -> int:
    command = Command.of(*words_in(folder, *RUN, *words))
    return launch(status_of(plan(command), folder / "results", folder / "work"), command.config)


def test_a_record_is_kept_until_it_can_be_written(tmp_path, capsys):
    """Here a file is where the folder of the records should be; then it is removed."""
    (job,) = jobs_of(tmp_path, *RUN)
    obstacle = tmp_path / "results" / "runs"
    obstacle.parent.mkdir()
    obstacle.touch()
    kept = job.folder / KEPT
    assert launched(tmp_path) == 1
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith(f"{job.label}: its record {job.options.record_path} cannot be written: ")
    assert error[-1].endswith(f"; it is kept in {kept}, and the next launch writes it")
    trained = read_record(kept)

    command = Command.of(*words_in(tmp_path, *RUN))
    status = status_of(plan(command), tmp_path / "results", tmp_path / "work")
    (run,) = status.runs
    assert status.line(run) == f"missing: it has ended, and the next launch writes its record, {kept}"
    assert status.hours().left == status.hours().unknown == 0

    assert launched(tmp_path) == 1, "there is no room yet"
    assert "cannot be written" in capsys.readouterr().err
    assert read_record(kept) == trained
    obstacle.unlink()
    assert launched(tmp_path) == 0
    shown = capsys.readouterr().err
    assert f"it had ended, and its record is written now: {job.options.record_path}" in shown
    assert "epoch 1/1" not in shown
    assert read_record(job.options.record_path) == trained
    assert not job.folder.exists()
    assert launched(tmp_path) == 0
    assert "is finished" in capsys.readouterr().out


def test_under_slurm_the_job_fails_with_one_line(tmp_path, capsys):
    (job,) = jobs_of(tmp_path, *RUN)
    obstacle = tmp_path / "results" / "runs"
    obstacle.parent.mkdir()
    obstacle.touch()
    with pytest.raises(SystemExit) as ended:
        SlurmRun(job.to_json())()
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("its record ")
    obstacle.unlink()
    assert SlurmRun(job.to_json())().startswith("it had ended, and its record is written now")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.getuid() != 0:
        pytest.skip("a file system of its own needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Write a file that takes all room of ``disk``."""
    with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return disk / "filler"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["launch=inline", "launch=local", "devices=2"])
def test_a_full_results_disk(tmp_path, full_disk, how):
    """One line and status 1; with room again the record is written, by the same command."""
    words = [*words_in(tmp_path, *RUN, how)[:-2], f"paths.results={full_disk}/results", f"paths.workspace={tmp_path}/w"]
    filler = fill(full_disk)
    for expected in (1, 1, 0, 0):
        if expected == 0:
            filler.unlink(missing_ok=True)
        process = start("train.py", *words)
        _, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == expected, error
        assert "Traceback" not in error
        assert error.count("cannot be written: No space left on device; it is kept in") == expected
    assert len(list(full_disk.rglob("*.json"))) == 1
    assert not list((tmp_path / "w").rglob(KEPT))


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_workspace_too(full_disk):
    """Of two checkpoints the older one makes room for the record."""
    (job,) = jobs_of(full_disk, "optim=sgdm", "protocol.epochs=2", "checkpoint_minutes=0")
    fill(full_disk).unlink()

    class FillTheRest(Observer):
        """Leaves no room once there are two checkpoints."""

        def on_epoch(self, point: CurvePoint) -> None:
            if point.epoch == 2:
                fill(full_disk)

    record = attempt(job, observers=[FillTheRest()])
    assert read_record(job.options.record_path) == record
    assert not job.folder.exists()
