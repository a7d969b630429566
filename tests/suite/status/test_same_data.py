"""A finished run is the run asked for only on its own data; small archives in the format of CIFAR-10."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llqr_sam.data.registry import fingerprint
from llqr_sam.engine.loop.interruption import Interrupted
from llqr_sam.engine.loop.run import execute
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.launch.dispatch import dispatch
from llqr_sam.suite.plan.plan import plan
from llqr_sam.suite.run.run_folder import Failure
from llqr_sam.suite.status.status import NOT_DECODED, NOT_HERE, NOT_SAID, Comparison
from tests.engine.conftest import StopAt
from tests.suite.jobs import jobs_of, words_in
from tests.suite.records import status_of, write_record

RUN = ["dataset=cifar10", "optim=sgdm", "arch.width=2", "protocol.epochs=1", "protocol.batch_size=4"]


@pytest.fixture
def archives(tmp_path: Path) -> tuple[Path, Path]:
    """Two of other images."""
    for seed, name in enumerate(("first", "second")):
        random = np.random.default_rng(seed)
        images, labels = random.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8), random.integers(0, 10, 16)
        np.savez(tmp_path / f"{name}.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return tmp_path / "first.npz", tmp_path / "second.npz"


def hash_of(archive: Path) -> str:
    found = fingerprint("cifar10", archive, Path())
    assert found is not None
    return found


def command(folder: Path, *words: str) -> int:
    """``python train.py <words>`` in ``folder``."""
    asked = Command.of(*words_in(folder, *words))
    return dispatch(plan(asked), asked)


def record(folder: Path, words: list[str], data: str | None, top1: float = 50.0) -> str:
    """Write the record of a run on data of that hash; returns the run's id."""
    (job,) = jobs_of(folder, *words)
    (run,) = plan(Command.of(*words))
    write_record(folder / "results", run, [top1], data=data)
    return job.run_id


def test_the_same_command_with_other_data(tmp_path, archives, capsys):
    """Trained once, found again on the same data under any name, refused on others."""
    first, second = archives
    assert command(tmp_path, *RUN, f"dataset.path={first}") == 0
    trained = capsys.readouterr().out
    copy = first.rename(tmp_path / "copy.npz")
    assert command(tmp_path, *RUN, f"dataset.path={copy}") == 0
    assert capsys.readouterr().out == trained
    with pytest.raises(UsageError) as raised:
        command(tmp_path, *RUN, f"dataset.path={second}")
    (path,) = (tmp_path / "results" / "runs").rglob("*.json")
    phrases = (f"dataset.path={second}", hash_of(second)[:12], hash_of(copy)[:12], path.stem, "paths.results=")
    assert all(phrase in str(raised.value) for phrase in phrases)


def test_a_path_that_names_nothing_or_something_else(tmp_path, archives, capsys):
    """An error for a finished run too, however it is looked at; on a cluster's nodes it may be there."""
    run_id = record(tmp_path, RUN, hash_of(archives[0]))
    gone, other = tmp_path / "gone.npz", tmp_path / "README.md"
    other.write_text("text")
    for how in ([], ["dry_run=true"], ["status=true"]):
        with pytest.raises(UsageError, match=f"^dataset.path={gone} does not exist: it must name"):
            command(tmp_path, *RUN, f"dataset.path={gone}", *how)
        with pytest.raises(UsageError, match=f"^dataset.path={other} is not an .npz"):
            command(tmp_path, *RUN, f"dataset.path={other}", *how)
    assert command(tmp_path, *RUN, f"dataset.path={gone}", "launch=slurm") == 0
    assert f"{run_id} is finished" in (out := capsys.readouterr().out)
    assert f"({NOT_HERE})" in out


@pytest.mark.parametrize(
    ("dataset", "data", "reason"),
    [("cifar10", "a" * 64, NOT_HERE), ("tinyimagenet", "a" * 64, NOT_DECODED), ("cifar10", None, NOT_SAID)],
)
def test_a_finished_run_whose_data_cannot_be_compared_says_so(dataset, data, reason, tmp_path, capsys):
    words = [f"dataset={dataset}", "arch=resnet18", "optim=sgdm", f"paths.data={tmp_path}"]
    run_id = record(tmp_path, words, data)
    assert command(tmp_path, *words) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"{run_id} is finished: best 50.00 % (epoch 1), last 50.00 % ({reason})"
    assert command(tmp_path, *words, "status=true") == 0
    assert capsys.readouterr().out.endswith(f"not compared with the data here: {run_id} ({reason})\n")


def test_a_table_does_not_train_beside_records_of_other_data(tmp_path, archives, capsys):
    """Nothing is trained; where the runs stand is still shown, with what differs."""
    first, second = archives
    table = ["table=1", "arch=resnet18", "optim=sgdm", "table.seeds=[0,1]", f"dataset.path={second}"]
    asked = Command.of(*words_in(tmp_path, *table))
    runs, config = plan(asked), asked.config
    write_record(tmp_path / "results", runs[0], [50.0], data=hash_of(first))
    sentence = f"dataset.path={second} has the data {hash_of(second)[:12]}, the records are of {hash_of(first)[:12]}"
    with pytest.raises(UsageError, match=sentence):
        command(tmp_path, *table)
    assert len(list((tmp_path / "results").rglob("*.json"))) == 1
    assert command(tmp_path, *table, "dry_run=true") == 0
    shown = capsys.readouterr().out
    assert "2 runs: 1 finished, 1 missing" in shown
    assert sentence in shown
    status = status_of(runs, tmp_path / "results")
    (difference,) = Comparison.of(status, config).differences
    assert difference.startswith(f"{sentence} ({runs[0].run_id}): ")


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["launch=local", "launch.workers=1"]])
def test_an_interrupted_run_is_not_continued_on_other_data(words, tmp_path, archives):
    """One sentence with both hashes, no failure is noted, and on its own data the run goes on."""
    first, second = archives
    table = ["table=1", "arch=resnet18", "optim=sgdm", "table.seeds=[0]", *RUN[2:]]
    (job,) = jobs_of(tmp_path, *table, f"dataset.path={first}")
    with pytest.raises(Interrupted):
        execute(job.settings, job.options, [StopAt(2)])
    with pytest.raises(
        UsageError, match=f"{hash_of(first)[:12]} where here are {hash_of(second)[:12]}: name those data"
    ):
        command(tmp_path, *table, *words, f"dataset.path={second}")
    assert Failure.read(job.folder) is None
    assert command(tmp_path, *table, *words, f"dataset.path={first}") == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    assert json.loads(path.read_text())["resumes"] == 1
