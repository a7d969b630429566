from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llqr_sam.engine.records.record import Flatness, Record
from llqr_sam.report.records.compare import comparison
from llqr_sam.suite.run.lookup import KnownRun
from tests.suite.plans import plan_of
from tests.suite.records import record_of, write_progress

(SAM,) = plan_of("optim=sam", "optim.rho=0.1")
(WIDE,) = plan_of("optim=sam", "optim.rho=0.2", "seed=3")


def known(record: Record) -> KnownRun:
    return KnownRun(record.run_id, record.config, Path("none"), record, Path("record.json"))


def compared(a: KnownRun, b: KnownRun) -> list[list[str]]:
    """The lines, each as its words."""
    return [line.split() for line in "\n".join(comparison(a, b)).splitlines()]


@pytest.fixture
def first() -> Record:
    return record_of(SAM, [50.0, 60.0, 70.0], data="a" * 64)


def test_what_differs_and_nothing_else(first):
    second = record_of(WIDE, [50.0, 61.5, 70.5], data="b" * 64, epochs=(1, 2, 4))
    second = replace(second, weights_sha256="1" * 64, git_commit="c" * 40, git_dirty=True, packages={"torch": "3"})
    lines = compared(known(first), known(second))
    for line in (
        ["optim.rho", "0.1", "0.2"],
        ["seed", "0", "3"],
        ["commit", "-", "c" * 40, "with", "changes"],
        ["torch", "2", "3"],
        ["data", "a" * 64, "b" * 64],
        ["best", "70.00", "%", "(epoch", "3)", "70.50", "%", "(epoch", "4)", "-0.50"],
        ["2", "60.00", "61.50", "-1.50"],
    ):
        assert line in lines
    keys = [line[0] for line in lines if line]
    assert not {"optim.lr", "dataset.name", "device", "weights:"} & set(keys)
    (curves,) = (" ".join(line) for line in lines if line[:1] == ["curves:"])
    assert curves == "curves: they differ from epoch 2 on; a - b is -0.75 on average over 2 evaluations"


def test_a_long_curve_is_shown_in_a_few_rows(first):
    long = [record_of(run, [float(x) for x in range(200)]) for run in (SAM, WIDE)]
    changed = replace(long[1], metrics=record_of(WIDE, [*map(float, range(199)), 0.0]).metrics)
    lines = compared(known(long[0]), known(changed))
    rows = lines[lines.index(["epoch", "a", "b", "a", "-", "b"]) + 1 :]
    assert len(rows) <= 10
    assert rows[-1] == ["200", "199.00", "0.00", "+199.00"]


def test_equal_weights_are_equal_bit_for_bit(first):
    lines = compared(known(first), known(first))
    assert ["settings:", "equal"] in lines
    assert ["weights:", "equal", "bit", "for", "bit", "(000000000000)"] in lines
    assert ["curves:", "equal", "at", "all", "3", "common", "evaluations"] in lines
    other = compared(known(first), known(replace(first, weights_sha256="1" * 64)))
    assert ["weights:", "they", "differ,", "of", "equal", "settings"] in other


def test_sharpness_if_both_have_it(first):
    flat, sharp = (replace(first, sharpness=Flatness([x, 1.0], 12.0, 0.25, 0.1, 64, 1024, 2.0)) for x in (2.0, 3.0))
    assert ["eigenvalue", "1", "2", "3"] in compared(known(flat), known(sharp))
    assert not any(line[:1] == ["eigenvalue"] for line in compared(known(flat), known(first)))


def test_of_a_run_that_has_not_ended_the_settings_are_compared(first, tmp_path):
    write_progress(tmp_path, 5, 60.0)
    lines = compared(known(first), KnownRun(WIDE.run_id, WIDE.settings.as_dict(), tmp_path))
    assert lines[1][2:9] == ["not", "ended", "at", "epoch", "5", "of", "20,"]
    assert ["optim.rho", "0.1", "0.2"] in lines
    assert not any(line[:1] in (["best"], ["curves:"]) for line in lines)
