"""Uploading, with W&B's real offline files; only the call of ``wandb sync`` is another's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("wandb")

from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.suite.run.attempt import attempt
from llqr_sam.suite.run.lock import RunLock
from llqr_sam.suite.status import uploads
from llqr_sam.suite.status.uploads import UploadError, log_table, run_id_of, upload, waiting
from tests.engine.observers import wandb_files
from tests.processes import REPOSITORY
from tests.suite.jobs import jobs_of
from tests.waiting import wait_for


class StopAtOnce(Observer):
    def on_start(self, run: RunInfo) -> None:
        run.request_stop()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A workspace with a run that was preempted once and finished, and one that is only begun; their ids."""
    folder = tmp_path_factory.mktemp("trained")
    finished, begun = jobs_of(
        folder, "logger=wandb", "table=demo", "optim=sgdm", "table.seeds=[0,1]", "protocol.epochs=2"
    )
    for job in (finished, begun):
        with pytest.raises(Interrupted):
            attempt(job, observers=[StopAtOnce()])
    attempt(finished)
    wait_for(lambda: all(wandb_files.is_closed(path) for path in folder.rglob("run-*.wandb")))
    return folder, finished.run_id, begun.run_id


@pytest.fixture
def sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``wandb sync`` as a script that notes its arguments in the file returned, and marks what it is given."""
    package = tmp_path / "modules" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import sys\nfrom pathlib import Path\n"
        f"with open({str(tmp_path / 'asked')!r}, 'a') as file: file.write(' '.join(sys.argv[1:]) + '\\n')\n"
        "for path in Path(sys.argv[2]).glob('*.wandb'): path.with_name(path.name + '.synced').touch()\n"
    )
    real = subprocess.run
    environment = {"PYTHONPATH": str(tmp_path / "modules")}
    monkeypatch.setattr(uploads.subprocess, "run", lambda command, **options: real(command, **options, env=environment))
    return tmp_path / "asked"


def unmark(folder: Path) -> None:
    for path in folder.rglob("*.synced"):
        path.unlink()


def test_a_finished_run_is_uploaded_once_and_whole(trained, sync):
    folder, finished, begun = trained
    unmark(folder)
    for _ in range(2):
        for path in waiting(folder / "results", folder / "work", 10):
            upload(path)
    (line,) = sync.read_text().splitlines()
    newest = max((folder / "work" / finished / "wandb").glob("offline-run-*"))
    assert line == f"sync {newest}"
    rows = wandb_files.history(newest / f"run-{finished}.wandb")
    assert [row["epoch/epoch"] for row in rows] == [1, 2]
    assert (folder / "work" / begun / "wandb").is_dir()


def test_a_run_that_is_being_trained_again_waits(trained, sync):
    folder, finished, _ = trained
    unmark(folder)
    with RunLock(folder / "work" / finished, 10):
        assert not list(waiting(folder / "results", folder / "work", 10))
    assert [run_id_of(path) for path in waiting(folder / "results", folder / "work", 10)] == [finished]


def test_runs_are_named_by_what_varies_and_keep_their_ids(trained):
    folder, finished, _ = trained
    run = wandb_files.run_of(next((folder / "work" / finished).rglob("*.wandb")))
    assert run.run_id == finished
    assert run.display_name == f"sgdm {finished.split('-')[3]}"


def test_groups_are_cells_and_job_types_methods(trained):
    folder, finished, _ = trained
    run = wandb_files.run_of(next((folder / "work" / finished).rglob("*.wandb")))
    assert (run.run_group, run.job_type) == ("digits-small_cnn-noise0.4-sgdm", "sgdm")
    assert list(run.tags) == ["demo", "digits", "small_cnn"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [("print('Not authenticated.')", "Not authenticated."), ("import sys; sys.exit(3)", "ended with status 3")],
)
def test_what_did_not_arrive_is_tried_again(code, reason, trained, sync):
    """W&B's exit status is 0 where there is no account."""
    folder, finished, _ = trained
    unmark(folder)
    (sync.parent / "modules" / "wandb" / "__main__.py").write_text(code)
    (path,) = waiting(folder / "results", folder / "work", 10)
    with pytest.raises(UploadError, match=f"{finished}: .*{reason}"):
        upload(path)
    assert list(waiting(folder / "results", folder / "work", 10)) == [path]


def test_an_upload_that_hangs_ends(trained, sync, monkeypatch):
    folder, *_ = trained
    unmark(folder)
    monkeypatch.setattr(uploads, "LIMIT", 1.0)
    (sync.parent / "modules" / "wandb" / "__main__.py").write_text("import time; time.sleep(60)")
    with pytest.raises(UploadError, match="has not ended after 1 seconds"):
        upload(next(waiting(folder / "results", folder / "work", 10)))


def test_a_rendered_table_is_an_artifact_once(tmp_path):
    files = [tmp_path / "table.md", tmp_path / "table.csv"]
    for path in files:
        path.write_text(path.name)
    for _ in range(2):
        log_table("table_02", files, "project", tmp_path / "work")
    (path,) = waiting(tmp_path / "results", tmp_path / "work", 10)
    wait_for(lambda: wandb_files.is_closed(path))
    (artifact,) = wandb_files.artifacts(path)
    assert (artifact.name, artifact.type) == ("table_02", "table")
    assert sorted(entry.path for entry in artifact.manifest.contents) == ["table.csv", "table.md"]
    assert wandb_files.run_of(path).project == "project"


@pytest.mark.slow
def test_the_command(tmp_path):
    command = [sys.executable, REPOSITORY / "scripts" / "wandb_sync.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "nothing to upload\n"
    done = subprocess.run([*command, "table=2"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("table_02.md is not there: render the table first.\n")


def test_ids_are_those_of_the_files(tmp_path):
    assert run_id_of(tmp_path / "run-digits-sgdm-s0-0a1b2c3d.wandb") == "digits-sgdm-s0-0a1b2c3d"
