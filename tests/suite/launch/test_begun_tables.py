from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.launch.dispatch import begun_tables
from tests.suite.conftest import RUNS
from tests.suite.plans import plan_of


def begun(words: Sequence[str], folder: Path) -> list[str]:
    """The tables that have begun in a folder."""
    places = (f"paths.results={folder}/results", f"paths.workspace={folder}/work")
    return list(begun_tables(Command.of(*words, *places)))


def test_every_table_that_has_begun_in_brief(states):
    assert begun([], states / "none") == ["no run of any table has begun"]
    lines = begun([], states)
    assert lines[0] == "table=demo: Digits with 40 % label noise"
    assert [line.split()[3] for line in lines[1:3]] == ["diverged:", "failed:"]
    planned = len(plan_of("table=demo"))
    assert lines[3] == f"{planned} runs: 1 finished, 1 diverged, 1 failed, {planned - 3} missing"
    assert len(lines) == 5


def runs_of(lines: list[str]) -> list[str]:
    """Ids of the runs that have a line."""
    return [word for line in lines for word in line.split() if word.startswith("digits-")]


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


@pytest.mark.parametrize("word", ["dataset=cifar100", "optim=info_sam", "seed=7", "dataset.label_noise=0.2"])
def test_tables_without_such_runs_are_passed_over(word, states):
    assert begun([word], states) == []


def test_a_table_that_cannot_take_the_words_is_passed_over(states):
    lines = begun(["optim.rho=0.3"], states)
    assert [line.partition(": ")[0] for line in lines] == ["table=demo passed over"]
    assert "optim.rho" in lines[0]
