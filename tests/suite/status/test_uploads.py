"""Uploading, with W&B's real offline files; only the call of ``wandb sync`` is another's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("wandb")

from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.observers.observer import Observer, RunInfo
from llqr_sam.engine.observers.wandb_logger import URL_FILE, url_of
from llqr_sam.suite.run.attempt import attempt
from llqr_sam.suite.run.lock import RunLock
from llqr_sam.suite.status import uploads
from llqr_sam.suite.status.uploads import PAGE, TABLES, UploadError, log_page, log_table, run_id_of, upload, waiting
from tests.engine.observers import wandb_files, wandb_server
from tests.processes import REPOSITORY
from tests.scripts.running import script
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
    for path in [*folder.rglob("*.synced"), *folder.rglob(URL_FILE)]:
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


def test_notes_say_where_the_page_is(trained):
    folder, finished, _ = trained
    run = wandb_files.run_of(next((folder / "work" / finished).rglob("*.wandb")))
    assert run.notes == f"Results: {folder}/results/report/index.html (make report)"


@pytest.mark.parametrize(
    "line",
    [
        "wandb: [llqr-sam/{id}] View run sgdm s0 at {url}",  # wandb 0.31
        "Syncing: {url} ... done.",  # before wandb-core did it
        "View run https://wandb.ai/me/runs/other at {url}",
    ],
)
def test_an_upload_leaves_the_runs_url(line, trained, sync):
    folder, finished, _ = trained
    unmark(folder)
    url = f"https://wandb.ai/me/llqr-sam/runs/{finished}"
    with (sync.parent / "modules" / "wandb" / "__main__.py").open("a") as file:
        file.write(f"print({line.format(id=finished, url=url)!r}, file=sys.stderr)\nprint('Finished')\n")
    upload(next(waiting(folder / "results", folder / "work", 10)))
    assert url_of(folder / "work" / finished) == url


def test_an_upload_that_names_no_url_leaves_none(trained, sync):
    folder, finished, _ = trained
    unmark(folder)
    with (sync.parent / "modules" / "wandb" / "__main__.py").open("a") as file:
        file.write("print('View run at https://wandb.ai/me/llqr-sam/runs/another-run')\n")
    upload(next(waiting(folder / "results", folder / "work", 10)))
    assert not (folder / "work" / finished / URL_FILE).exists()


@pytest.mark.slow
def test_the_real_wandb_sync_names_the_url(trained, tmp_path, monkeypatch):
    folder, finished, _ = trained
    unmark(folder)
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.chdir(tmp_path)  # W&B leaves its logs there
    with wandb_server.running() as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        upload(next(waiting(folder / "results", folder / "work", 10)))
    unique = f"{wandb_server.ENTITY}/llqr-sam/runs/{finished}"
    assert url_of(folder / "work" / finished) == f"{address}/{unique}"
    unmark(folder)


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


def test_the_page_is_shown_and_an_artifact_once_for_each_content(tmp_path):
    page, work = tmp_path / "results" / PAGE, tmp_path / "work"
    page.parent.mkdir(parents=True)
    text = "<html><head></head><body>{}</body></html>"
    for content in ("first", "first", "second"):
        page.write_text(text.format(content))
        log_page(page, "project", work)
    paths = list(waiting(tmp_path / "results", work, 10))
    assert len({run_id_of(path) for path in paths}) == len(paths) == 2
    wait_for(lambda: all(wandb_files.is_closed(path) for path in paths))
    shown = set()
    for path in paths:
        run = wandb_files.run_of(path)
        assert run.run_id.startswith("report-")
        assert (run.display_name, run.project, run.job_type) == (run.run_id, "project", "report")
        (artifact,) = wandb_files.artifacts(path)
        assert (artifact.name, artifact.type) == ("report", "report")
        assert [entry.path for entry in artifact.manifest.contents] == ["index.html"]
        (row,) = wandb_files.history(path)
        assert row["report/_type"] == "html-file"
        shown.add((path.parent / "files" / row["report/path"]).read_text())
    assert shown == {text.format("first"), text.format("second")}  # as they are: nothing from a network


def test_the_command_uploads_the_page_once_and_not_with_a_table(tmp_path, sync):
    page = tmp_path / "results" / PAGE
    page.parent.mkdir(parents=True)
    page.write_text("<html></html>")
    table = tmp_path / "table.md"
    table.touch()
    words = [f"paths.results={tmp_path}/results", f"paths.workspace={tmp_path}/work"]
    of_table = ["table=demo", f"table.output={table.with_suffix('')}", "table.formats=[md]", "table.curves=null"]
    status, lines, _ = script("wandb_sync.py", *words, *of_table)
    assert (status, lines[-1], [line for line in lines if "report" in line]) == (0, "1 uploaded", [])
    status, lines, _ = script("wandb_sync.py", *words)
    assert (status, lines[1:]) == (0, ["1 uploaded"])
    assert lines[0].startswith("uploaded report-")
    assert script("wandb_sync.py", *words)[1] == ["nothing to upload"]


@pytest.mark.slow
def test_the_real_client_uploads_the_page(tmp_path):
    (tmp_path / "results" / PAGE).parent.mkdir(parents=True)
    (tmp_path / "results" / PAGE).write_text("<html></html>")
    command = [sys.executable, REPOSITORY / "scripts" / "wandb_sync.py"]
    without_service = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    with wandb_server.running() as address:
        environment = without_service | {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("uploaded report-")
    assert not (tmp_path / "outputs" / "runs" / TABLES / URL_FILE).exists()  # the URL is of no run


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
