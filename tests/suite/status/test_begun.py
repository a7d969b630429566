from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.run.lock import RunLock
from llqr_sam.suite.run.run_folder import Begun, Queued, note_failure
from llqr_sam.suite.status.begun import begun as begun_lines
from tests.suite.conftest import RUNS
from tests.suite.plans import plan_of
from tests.suite.records import record_of, write_progress, write_record


def begun(words: Sequence[str], folder: Path) -> list[str]:
    """What has begun in a folder."""
    places = (f"paths.results={folder}/results", f"paths.workspace={folder}/work")
    return list(begun_lines(Command.of(*words, *places)))


def test_every_table_that_has_begun_in_brief(states):
    assert begun([], states / "none") == ["no run has begun"]
    lines = begun([], states)
    assert lines[0] == "table=demo: Digits with 40 % label noise"
    assert runs_of(lines) == [run.run_id for run in RUNS[1:5]]  # and neither finished ones nor those not begun
    assert [line.split()[3] for line in lines[1:3]] == ["diverged:", "failed:"]
    planned = len(plan_of("table=demo"))
    assert lines[5] == f"{planned} runs: 1 finished, 1 diverged, 1 failed, {planned - 3} missing"
    assert len(lines) == 7


def test_a_table_that_is_only_queued_has_begun(tmp_path):
    (tmp_path / "work" / RUNS[0].run_id).mkdir(parents=True)
    Queued("7_0", None).write(tmp_path / "work" / RUNS[0].run_id)
    assert begun([], tmp_path)[0] == "table=demo: Digits with 40 % label noise"


def runs_of(lines: list[str]) -> list[str]:
    """Ids of the runs that have a line."""
    return [word for line in lines for word in line.split() if word.startswith("digits-")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["optim=sgdm"],
        ["dataset=digits", "arch=small_cnn", "dataset.label_noise=0.4", "seed=1"],
        ["geometry=none"],
    ],
)
def test_words_choose_runs_of_the_tables_that_have_begun(words, states):
    """And each has its line, finished and missing ones too."""
    lines, chosen = begun(words, states), plan_of("table=demo", *words)
    assert lines[0] == "table=demo: Digits with 40 % label noise"
    assert runs_of(lines) == [run.run_id for run in chosen]
    assert lines[-2].startswith(f"{len(chosen)} runs: ")


def test_a_chosen_run_may_wait_while_others_of_its_table_have_begun(states):
    """But with another rho it is no run of a table that has begun."""
    words = ["optim=sam", "seed=2"]
    lines = begun(words, states)
    assert runs_of(lines) == [RUNS[5].run_id]
    assert lines[-2] == "1 run: 1 missing"
    assert begun([*words, "optim.rho=0.3"], states) == []


@pytest.mark.slow
@pytest.mark.parametrize("word", ["dataset=cifar100", "optim=info_sam", "seed=7", "dataset.label_noise=0.2"])
def test_tables_without_such_runs_are_passed_over(word, states):
    assert begun([word], states) == []


def test_a_table_that_cannot_take_the_words_is_passed_over(states):
    lines = begun(["optim.rho=0.3"], states)
    assert [line.partition(": ")[0] for line in lines] == ["table=demo passed over"]
    assert "optim.rho" in lines[0]


@pytest.fixture
def adhoc(tmp_path) -> Path:
    """Runs of no table: sgdm finished; sam with radii that fail, are interrupted, run; and one of a table."""
    (finished,) = plan_of("optim=sgdm", "protocol.epochs=3")
    write_record(tmp_path / "results", finished, [90.0])
    for rho in (0.1, 0.2, 0.3):
        (run,) = plan_of("optim=sam", f"optim.rho={rho}")
        folder = tmp_path / "work" / run.run_id
        folder.mkdir(parents=True)
        Begun(run.settings.as_dict(), run.folder).write(folder)
        if rho == 0.1:
            note_failure(run.run_id, folder, RuntimeError("CUDA out of memory"))
        elif rho == 0.2:
            write_progress(folder, 5, 1800.0)
    Begun(RUNS[0].settings.as_dict(), "demo").write(tmp_path / "work" / RUNS[0].run_id)
    return tmp_path


def sam(rho: float) -> str:
    return plan_of("optim=sam", f"optim.rho={rho}")[0].run_id


def test_runs_of_no_table_in_brief(adhoc):
    """Finished ones are counted, and the run of a table is not among them."""
    with RunLock(adhoc / "work" / sam(0.3), 10):
        lines = begun([], adhoc)
    first = lines.index("runs of no table")
    stands = [line.partition("digits-")[2].split()[:2] for line in lines[first + 1 : -2]]
    kinds = {f"digits-{run}": kind.strip(":,") for run, kind in stands}
    assert kinds == {sam(0.1): "failed", sam(0.2): "missing", sam(0.3): "running"}
    assert lines[-2] == "4 runs: 1 finished, 1 failed, 1 running, 1 missing"


@pytest.mark.parametrize(
    ("words", "radii"), [(["optim=sam"], (0.1, 0.2, 0.3)), (["optim.rho=0.2"], (0.2,)), (["optim=sam", "seed=1"], ())]
)
def test_words_choose_among_runs_of_no_table(words, radii, adhoc):
    lines = begun(words, adhoc)
    own = lines[lines.index("runs of no table") :] if radii else lines
    assert sorted(runs_of(own)) == sorted(map(sam, radii))


def test_a_word_that_cannot_choose_among_runs_of_no_table_says_so(adhoc):
    (line,) = (line for line in begun(["precision=fast"], adhoc) if "precision=fast" in line)
    assert line.startswith("runs of no table are not shown: precision=fast names a file")


def test_a_damaged_record_of_no_table_is_named(adhoc):
    (adhoc / "results" / "runs" / "adhoc" / "digits-small_cnn-sam-s9-00000000.json").write_text("{")
    assert sum("s9-00000000" in line for line in begun([], adhoc)) == 1


def test_settings_of_another_version_are_named_and_hide_no_other_run(adhoc):
    Begun({"dataset": {"name": "digits"}, "optim": {"name": "sam"}}, "adhoc").write(adhoc / "work" / "digits-x-y")
    lines = begun([], adhoc)
    assert "digits-x-y cannot be read here: it has no settings 'arch', so another version made it" in lines
    assert lines[-2].startswith("4 runs: ")


def test_words_that_say_where_choose_none(adhoc):
    lines = begun(["optim=sam", "dataset.path=/tmp/x"], adhoc)
    assert sorted(runs_of(lines[lines.index("runs of no table") :])) == sorted(map(sam, (0.1, 0.2, 0.3)))


def test_records_of_a_table_that_is_not_here_are_counted(tmp_path):
    folder = tmp_path / "results" / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("{}")
    assert begun([], tmp_path)[1] == f"{folder} has 1 records of a table that is not here (-cd DIR?)"


def test_a_run_with_an_own_part_says_which_plugin_it_needs(tmp_path):
    (run,) = plan_of("optim=sgdm")
    record = record_of(run, [90.0])
    config = record.config | {"optim": {"name": "mine", "base": "mine", "lr": 0.1}}
    record = replace(record, config=config, packages={"torch": "2.13.0", "my_parts": "sha256:00"})
    record.write(tmp_path / "results" / "runs" / "adhoc" / f"{run.run_id}.json")
    (line,) = (line for line in begun([], tmp_path) if line.startswith(run.run_id))
    assert "cannot be read here: optim.base=mine is not known" in line
    assert line.endswith("It was trained with plugins=[my_parts].")
