from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.run.lock import RunLock
from llqr_sam.suite.run.run_folder import Epochs, note_failure, progress_path
from llqr_sam.suite.status.overview import Overview, every_table
from llqr_sam.suite.status.status import Status
from tests.suite.plans import plan_of
from tests.suite.records import write_record

WORDS = ("table=demo", "table.methods=[{optim: sgdm},{optim: sam}]")
RUNS = plan_of(*WORDS)  # two cells of three seeds


def write_progress(folder: Path, done: float, seconds: float, devices: int = 1, unit: str = "%") -> None:
    epochs = Epochs(done, 20, 91.5 if done else None, seconds, time.time(), devices, unit)
    with replacing(progress_path(folder)) as file:
        file.write(json.dumps(dataclasses.asdict(epochs)).encode())


@pytest.fixture
def states(tmp_path: Path) -> Path:
    """sgdm: finished in an hour, diverged after half of one, failed; sam: running, interrupted, waiting."""
    for run, status, hours in ((RUNS[0], "finished", 1.0), (RUNS[1], "diverged", 0.5)):
        write_record(tmp_path / "results", run, [90.0], status, hours)  # type: ignore[arg-type]
    note_failure(RUNS[2].run_id, tmp_path / "work" / RUNS[2].run_id, RuntimeError("CUDA out of memory"))
    write_progress(tmp_path / "work" / RUNS[3].run_id, 5, 1800.0)
    write_progress(tmp_path / "work" / RUNS[4].run_id, 2000 / 195, 3600.0)  # evaluated every 2000 steps
    return tmp_path


def test_a_line_says_where_each_run_stands(states):
    with RunLock(states / "work" / RUNS[3].run_id, 10):
        status = Status.of(RUNS, states / "results", states / "work")
        lines = list(Overview(status, states / "work").lines())
    stands = [line.partition("  ")[2].strip() for line in lines]
    assert stands[0].startswith("finished: best 90.00 % (epoch 1)")
    assert stands[1].startswith("diverged: ")
    assert stands[2].startswith("failed: RuntimeError: CUDA out of memory (")
    assert stands[2].endswith("log.txt)")
    assert stands[3].startswith("running: epoch 5/20, best 91.50 %, 1:30:00 left, on ")
    assert stands[4] == "waiting, interrupted after epoch 10.26/20, best 91.50 %"
    assert stands[5] == "waiting"
    assert lines[6] == "6 runs: 1 finished, 1 diverged, 1 failed, 1 running, 2 waiting"
    # 1 + 0.5 + 0.5 + 1 spent; sam's own pace gives 1.5 and 0.95, and its third run has nothing to go by.
    assert lines[7] == "3.00 device-hours spent, about 2.45 left, not counting 1 run of cells that none has finished"


def test_finished_runs_of_the_cell_tell_how_long_the_others_take(tmp_path):
    write_record(tmp_path / "results", RUNS[0], [90.0], hours=2.0)
    write_progress(tmp_path / "work" / RUNS[1].run_id, 10, 1800.0)
    status = Status.of(RUNS[:3], tmp_path / "results", tmp_path / "work")
    hours = Overview(status, tmp_path / "work").hours()
    assert (hours.spent, hours.left, hours.unknown) == (2.5, 3.5, 0)


def test_hours_are_of_every_device(tmp_path):
    """Half an hour on four devices to the middle of a run: two hours, and two to come."""
    write_progress(tmp_path / "work" / RUNS[0].run_id, 10, 1800.0, devices=4)
    status = Status.of(RUNS[:1], tmp_path / "results", tmp_path / "work")
    hours = Overview(status, tmp_path / "work").hours()
    assert (hours.spent, hours.left, hours.unknown) == (2.0, 2.0, 0)


def begun(words: Sequence[str], folder: Path) -> list[str]:
    """The tables that have begun in a folder."""
    places = (f"paths.results={folder}/results", f"paths.workspace={folder}/work")
    return list(every_table(Command.of(*words, *places)))


def test_every_table_that_has_begun_in_brief(states):
    words = list(WORDS[1:])
    assert begun(words, states / "none") == ["no run of any table has begun"]
    lines = begun(words, states)
    assert lines[0] == "table=demo: Digits with 40 % label noise"
    assert [line.split()[1] for line in lines[1:3]] == ["diverged:", "failed:"]
    assert lines[3] == "6 runs: 1 finished, 1 diverged, 1 failed, 3 waiting"
    assert len(lines) == 5


def test_the_best_so_far_has_its_unit(tmp_path):
    write_progress(tmp_path / "work" / RUNS[0].run_id, 10, 60.0, unit="BLEU")
    overview = Overview(Status.of(RUNS[:1], tmp_path / "results", tmp_path / "work"), tmp_path / "work")
    assert overview.line(RUNS[0]) == "waiting, interrupted after epoch 10/20, best 91.50 BLEU"


def runs_of(lines: list[str]) -> list[str]:
    """Ids of the runs that have a line."""
    return [line.split()[0] for line in lines if "-s" in line.partition(" ")[0]]


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["optim=sgdm"], RUNS[:3]),
        (["dataset=digits", "arch=small_cnn", "dataset.label_noise=0.4", "seed=1"], [RUNS[1], RUNS[4]]),
        (["geometry=none"], RUNS),
    ],
)
def test_words_choose_runs_of_the_tables_that_have_begun(words, chosen, states):
    """And each has its line, finished and waiting ones too."""
    lines = begun([*WORDS[1:], *words], states)
    assert lines[0] == "table=demo: Digits with 40 % label noise"
    assert runs_of(lines) == [run.run_id for run in chosen]
    assert lines[-2].startswith(f"{len(chosen)} run")


def test_a_chosen_run_may_wait_while_others_of_its_table_have_begun(states):
    """But with another rho it is no run of a table that has begun."""
    words = ["optim=sam", "seed=2"]
    lines = begun(words, states)
    assert runs_of(lines) == [RUNS[5].run_id]
    assert lines[-2] == "1 run: 1 waiting"
    assert begun([*words, "optim.rho=0.3"], states) == []


@pytest.mark.parametrize("word", ["dataset=cifar100", "optim=llqr_sam", "seed=7", "dataset.label_noise=0.2"])
def test_tables_without_such_runs_are_passed_over(word, states):
    assert begun([*WORDS[1:], word], states) == []


def test_a_table_that_cannot_take_the_words_is_passed_over(states):
    lines = begun(["optim.rho=0.3"], states)
    assert [line.partition(": ")[0] for line in lines] == ["table=demo passed over"]
    assert "optim.rho" in lines[0]
