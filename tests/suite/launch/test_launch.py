"""Launching, with real runs of two epochs on digits."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from llqr_sam.data.streams import MissingDataError
from llqr_sam.engine.records import provenance
from llqr_sam.engine.records.record import read_record
from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.launch import launch as launching
from llqr_sam.suite.launch.launch import launch
from llqr_sam.suite.launch.preview import preview
from llqr_sam.suite.plan.plan import plan
from llqr_sam.suite.run import attempt as attempting
from llqr_sam.suite.run.attempt import Reply
from llqr_sam.suite.run.lock import RunLock
from llqr_sam.suite.run.run_folder import Begun, Queued, note_failure
from llqr_sam.suite.status.status import Status
from tests.processes import start
from tests.suite.jobs import words_in
from tests.suite.records import status_of, write_record
from tests.suite.slurm import commands
from tests.waiting import PATIENCE


def run(words: list[str], folder: Path) -> int:
    """``python train.py <words>`` in ``folder``, quickly."""
    words = ["logger=none", "device=cpu", *words, f"paths.results={folder}/results", f"paths.workspace={folder}/work"]
    command = Command.of(*words)
    return launch(Status.under(plan(command), command.config), command.config)


def records(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*.json")}


def test_a_single_run_is_trained_once(tmp_path, capsys):
    words = ["optim=sgdm", "protocol.epochs=1"]
    assert run(words, tmp_path) == 0
    first = capsys.readouterr().out
    before = records(tmp_path)
    (path,) = before
    assert path.parent.name == "adhoc"
    assert path.stem == read_record(path).run_id
    assert "finished: best" in first
    assert str(path) in first
    assert run(words, tmp_path) == 0
    assert capsys.readouterr().out == first
    assert records(tmp_path) == before


def test_keep_weights_of_a_finished_run_says_where_they_are_or_how_to_get_them(tmp_path, capsys):
    words = ["optim=sgdm", "protocol.epochs=1"]
    run(words, tmp_path)
    capsys.readouterr()
    assert run([*words, "keep_weights=true"], tmp_path) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("weights: not kept. To get them, train it again with keep_weights=true and other folders, ")
    assert run(["table=demo", "table.seeds=[0]", "optim=sgdm", "keep_weights=true", "protocol.epochs=1"], tmp_path) == 0
    assert run(["table=demo", "table.seeds=[0,1]", "optim=sgdm", "protocol.epochs=1"], tmp_path) == 0
    capsys.readouterr()
    words = ["table=demo", "table.seeds=[0,1]", "optim=sgdm", "protocol.epochs=1", "keep_weights=true"]
    assert run(words, tmp_path) == 0
    assert "1 of 2 finished runs have kept no weights: to get them, train it again" in capsys.readouterr().err
    assert run([*words, "seed=0"], tmp_path) == 0
    (path,) = tmp_path.rglob("weights.pt")
    assert capsys.readouterr().out.splitlines()[-1] == f"weights: {path}"


def test_a_run_in_the_queue_is_known_by_its_settings(tmp_path, monkeypatch):
    """Long before it starts; a real queue is in tests/integration/slurm."""
    monkeypatch.setattr(launching, "submit", lambda jobs, *_: ["1_0"] * len(jobs))
    assert run(["optim=sgdm", "launch=slurm"], tmp_path) == 0
    (folder,) = (path.parent for path in tmp_path.rglob(Begun.name))
    begun = Begun.read(folder)
    assert begun is not None
    assert (RunSettings.from_dict(begun.config).run_id, begun.folder) == (folder.name, "adhoc")


def test_a_table_trains_what_is_missing(tmp_path, capsys):
    words = ["table=demo", "optim=sgdm", "protocol.epochs=1", "table.seeds=[0,1]"]
    assert run([*words, "seed=0"], tmp_path) == 0
    before = records(tmp_path)
    assert run(words, tmp_path) == 0
    after = records(tmp_path)
    assert len(after) == 2
    assert before.items() <= after.items()
    assert "2 runs: 1 finished, 1 missing" in capsys.readouterr().err


def test_a_failed_run_does_not_stop_the_next(tmp_path, capsys):
    """A preconditioner minibatch larger than the data is found by the engine, in LLQR's run alone."""
    methods = "table.methods=[{optim: llqr, geometry: ngd}, {optim: sgdm}]"
    words = ["table=demo", methods, "seed=0", "protocol.epochs=1", "protocol.methods.refresh_batch=100000"]
    assert run(words, tmp_path) == 1
    assert len(records(tmp_path)) == 1
    error = capsys.readouterr().err
    assert "failed: llqr-ngd s0 (digits-small_cnn-llqr-ngd-s0" in error
    assert "1 of 2 runs failed; retry=failed tries them again" in error
    assert run(words, tmp_path) == 0  # it would only fail again
    error = capsys.readouterr().err
    assert "2 runs: 1 finished, 1 failed" in error
    assert "left alone; retry=failed" in error
    assert run([*words, "retry=failed"], tmp_path) == 1
    assert "[1/1] llqr-ngd s0" in capsys.readouterr().err


def test_a_file_that_is_gone_in_mid_run_is_no_mistake_of_the_command(tmp_path, capsys, monkeypatch):
    """Only missing data would be missed by the next run too."""
    execute = attempting.execute

    def broken(*_: object) -> None:
        monkeypatch.setattr(attempting, "execute", execute)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "step_000000001.pt.tmp")

    monkeypatch.setattr(attempting, "execute", broken)
    assert run(["table=demo", "optim=sgdm", "protocol.epochs=1", "table.seeds=[0,1]"], tmp_path) == 1
    assert len(records(tmp_path)) == 1
    error = capsys.readouterr().err
    assert "failed: sgdm s0 (digits-small_cnn-sgdm-s0" in error
    assert "No such file or directory: 'step_000000001.pt.tmp'" in error


def test_a_mistake_of_a_single_run_keeps_its_cause(tmp_path):
    """HYDRA_FULL_ERROR=1 shows where it was raised."""
    with pytest.raises(UsageError, match="100000") as caught:
        run(["optim=llqr", "protocol.methods.refresh_batch=100000"], tmp_path)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_missing_data_set_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="dataset.path=.*none.npz does not exist"):
        run(["dataset=cifar100", f"dataset.path={tmp_path}/none.npz"], tmp_path)


@pytest.mark.parametrize("how", ["launch=inline", "launch=local"])
def test_data_are_looked_for_before_any_run_starts(how, tmp_path, capsys):
    """No worker and no run has begun when the last of the data sets is found to be missing."""
    words = ["table=8", "arch=resnet18", "seed=0", "optim=sgdm", how, f"paths.data={tmp_path}"]
    (tmp_path / "cifar10.npz").touch()
    with pytest.raises(
        UsageError, match="^dataset=[a-z0-9]+ is not at .* Prepare it with: python scripts/prepare_data"
    ):
        run(words, tmp_path)
    assert "worker" not in capsys.readouterr().err
    assert not list((tmp_path / "work").iterdir())


def test_a_dry_run_of_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    words = words_in(tmp_path, "table=demo", "optim=sgdm", "launch=local", "launch.workers=2", "dry_run=true")
    command = Command.of(*words)
    lines = list(preview(Status.under(plan(command), command.config), command.config))
    assert lines == [f"launch=local trains {len(plan(command))} runs on 2 workers of 3 threads", "the data are here"]


def test_failed_runs_whose_cause_is_gone_are_counted(tmp_path, capsys):
    words = ["table=demo", "optim=sgdm", "protocol.epochs=1", "table.seeds=[0,1]"]
    for planned in plan(Command.of(*words)):
        error = ModuleNotFoundError("No module named 'torch'")
        note_failure(planned.run_id, tmp_path / "work" / planned.run_id, error)
    assert run(words, tmp_path) == 0
    advice = "retry=failed tries them again, and of 2 the package is installed now"
    assert f"runs that failed are left alone; {advice}" in capsys.readouterr().err


def test_a_single_failed_run_whose_cause_is_gone_says_it_once(tmp_path, capsys):
    words = ["optim=sgdm", "protocol.epochs=1", "device=cpu", "logger=none"]
    (planned,) = plan(Command.of(*words))
    note_failure(planned.run_id, tmp_path / "work" / planned.run_id, MissingDataError("the digits are not there"))
    assert run(words, tmp_path) == 1
    assert capsys.readouterr().err.endswith("; its data are here now: retry=failed tries it again\n")


def test_a_queued_run_may_be_trained_here(tmp_path, capsys, monkeypatch):
    commands(tmp_path, monkeypatch, squeue="echo '7|PENDING|Priority'", scontrol="")
    words = ["table=demo", "optim=sgdm", "protocol.epochs=1", "table.seeds=[0]"]
    (planned,) = plan(Command.of(*words))
    (tmp_path / "work" / planned.run_id).mkdir(parents=True)
    Queued("7", None).write(tmp_path / "work" / planned.run_id)
    assert run(words, tmp_path) == 0
    assert "SLURM jobs of 1 of these runs are in the queue too" in capsys.readouterr().err
    assert len(records(tmp_path)) == 1
    assert not (tmp_path / "work" / planned.run_id).exists()


@pytest.mark.parametrize("how", ["launch=inline", "launch=local"])
@pytest.mark.parametrize("key", ["workspace", "results"])
def test_a_place_that_cannot_be_written_is_a_usage_error(key, how, tmp_path):
    """Before the training, not after it; nobody can make a folder in /proc."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/below")):
        words = words_in(tmp_path, "optim=sgdm", "protocol.epochs=1", how, f"paths.{key}={place}")
        command = Command.of(*{word.partition("=")[0]: word for word in reversed(words)}.values())
        with pytest.raises(UsageError, match=f"^paths.{key}={place} cannot be written: [A-Z][a-z ]+\\.$"):
            launch(status_of(plan(command), tmp_path / "results", tmp_path / "work"), command.config)
    assert not records(tmp_path)


def test_a_record_that_cannot_be_read_is_not_trained_anew(tmp_path, capsys):
    words = ["optim=sgdm", "protocol.epochs=1", "device=cpu", "logger=none"]
    (planned,) = plan(Command.of(*words))
    path = tmp_path / "results" / "runs" / "adhoc" / f"{planned.run_id}.json"
    path.mkdir(parents=True)  # no file can be read there
    assert run(words, tmp_path) == 1
    assert f"failed: its record cannot be read ({path}: Is a directory)" in capsys.readouterr().err
    with pytest.raises(UsageError, match=f"{path}: Is a directory"):
        run([*words, "retry=failed"], tmp_path)


def test_a_commit_that_no_record_can_have_stops_a_table(tmp_path, monkeypatch):
    """Where there is no checkout; before any of its runs."""
    monkeypatch.setattr(provenance, "_git", lambda folder, *arguments: None)
    monkeypatch.setenv("LLQR_SAM_COMMIT", "main")
    with pytest.raises(UsageError, match="^LLQR_SAM_COMMIT='main' must be a commit"):
        run(["table=demo", "optim=sgdm"], tmp_path)


def test_an_absent_device_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="device=cuda:99"):
        run(["device=cuda:99"], tmp_path)


def test_an_interruption_stops_the_sweep(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(launching, "train", lambda job: Reply("interrupted", "stopped; the same command continues"))
    assert run(["table=demo", "optim=sgdm", "table.seeds=[0,1,2]"], tmp_path) == 130
    error = capsys.readouterr().err
    assert "the same command continues" in error
    assert "3 runs left" in error


def test_a_single_run_that_failed_says_so(tmp_path, capsys, monkeypatch):
    words = ["optim=sgdm", "protocol.epochs=1"]

    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(attempting, "execute", broken)
        with pytest.raises(RuntimeError):
            run(words, tmp_path)
    assert run(words, tmp_path) == 1
    error = capsys.readouterr().err
    assert "failed: RuntimeError: boom" in error
    assert "retry=failed tries it again" in error
    assert run([*words, "retry=failed"], tmp_path) == 0
    assert run(words, tmp_path) == 0


def test_a_diverged_run_is_retried_only_when_asked_and_its_record_kept(tmp_path, capsys):
    words = ["optim=sgdm", "protocol.epochs=1", "device=cpu", "logger=none"]
    planned = plan(Command.of(*words))
    path = write_record(tmp_path / "results", planned[0], [10.0], status="diverged")
    moved = path.parent.parent / "demo" / path.name  # where another table has put it
    moved.parent.mkdir()
    path.rename(moved)
    assert run(words, tmp_path) == 0
    assert read_record(moved).status == "diverged"
    assert run([*words, "retry=failed"], tmp_path) == 0
    assert str(path) in capsys.readouterr().out
    assert {found: read_record(found).status for found in records(tmp_path)} == {moved: "diverged", path: "finished"}
    assert run(words, tmp_path) == 0
    assert "is finished" in capsys.readouterr().out
    assert len(records(tmp_path)) == 2


def test_a_run_that_somebody_else_trains_is_left_alone(tmp_path, capsys):
    words = ["table=demo", "optim=sgdm", "protocol.epochs=1", "table.seeds=[0,1]"]
    first = plan(Command.of(*words))[0]
    with RunLock(tmp_path / "work" / first.run_id, 10):
        assert run(words, tmp_path) == 0
    assert [read_record(path).run_id for path in records(tmp_path)] != [first.run_id]
    assert len(records(tmp_path)) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if first.run_id in line]
    assert line.startswith(f"sgdm s0 ({first.run_id}): running on ")
    assert line.endswith("left alone")


@pytest.mark.slow
def test_two_launches_that_race_train_each_run_once(tmp_path):
    """Real processes; a run's log has one start for every run, whoever trained it."""
    words = ["table=demo", "table.methods=[{optim: sgdm}]", "table.seeds=[0,1,2,3]", "protocol.epochs=2"]
    command = ["train.py", *words_in(tmp_path, *words)]
    racers = [start(*command, *how) for how in ([], ["launch=local"], ["launch=local", "launch.workers=1"])]
    outputs = [racer.communicate(timeout=PATIENCE) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0], outputs
    done = [read_record(path) for path in records(tmp_path)]
    assert len(done) == 4
    assert all(record.resumes == 0 for record in done)
    text = outputs[0][1] + "".join(path.read_text() for path in tmp_path.glob("work/*/log.txt"))
    assert len([line for line in text.splitlines() if " steps, " in line]) == 4


def test_unknown_retry_and_profile_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="retry=all is not possible. Choose from: null, failed"):
        run(["retry=all"], tmp_path)
    with pytest.raises(UsageError, match="launch.profile=none is not a SLURM profile here. Choose from: alliance, g"):
        run(["launch=slurm", "launch.profile=none"], tmp_path)
