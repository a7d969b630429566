from __future__ import annotations

import pytest

from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import ScaleConfig
from llqr_sam.suite.plan.plan import table_folder
from tests.suite.plans import plan_of, settings_of


def test_a_run_has_one_identity_in_every_table():
    """SAM and LLQR+SAM (NGD) of Tables 1 and 2 are those of Table 4, and two columns of 7 are in 2."""
    ids = {number: {run.run_id for run in plan_of(f"table={number}")} for number in ("1", "2", "4", "7")}
    assert len(ids["4"] & (ids["1"] | ids["2"])) == 80
    assert len(ids["7"] & ids["2"]) == 10


def test_whatever_decides_the_result_decides_the_identity():
    words = ["seed=1", "dataset.label_noise=0.1", "optim.rho=0.3", "protocol.epochs=3", "precision=deterministic"]
    words += ["geometry=newton", "structure=kfac", "arch.width=8", "dataset.crop=batch", "optim.norm=euclidean"]
    ids = [settings_of().run_id, *(settings_of(word).run_id for word in words)]
    assert len(set(ids)) == len(ids)


def test_whatever_does_not_decide_the_result_is_not_in_the_identity():
    words = ["paths.results=/tmp/x", "device=cpu", "logger=none", "checkpoint_minutes=1", "dataset.workers=3"]
    words += ["keep_weights=true", "protocol.methods.rho=0.1", "protocol.methods.asam_rho=9"]
    assert {settings_of(word).run_id for word in words} == {settings_of().run_id}
    cifar = "dataset=cifar10"
    assert settings_of(cifar, "dataset.path=/tmp/y").run_id == settings_of(cifar).run_id


def test_words_pick_runs_of_a_table():
    runs = plan_of("table=2", "arch=resnet18", "optim=llqr_sam", "seed=0")
    assert [(run.cell.method, run.cell.geometry) for run in runs] == [
        ("llqr_sam", "ngd"),
        ("llqr_sam", "newton"),
    ]
    assert {run.run_id for run in runs} < {run.run_id for run in plan_of("table=2")}
    assert len(plan_of("table=2", "arch=resnet18", "geometry=newton")) == 10
    assert len(plan_of("table=8", "dataset.label_noise=0.2")) == 15


def test_other_words_hold_for_every_run_of_a_table():
    runs = plan_of("table=demo", "protocol.epochs=2", "dataset.workers=1")
    assert {(run.settings.protocol.epochs, run.workers) for run in runs} == {(2, 1)}
    assert [run.cell for run in runs] == [run.cell for run in plan_of("table=demo")]


def test_a_table_can_be_pointed_elsewhere():
    """docs/methods.md, section 3.6: the tables run the published WRN-28-10 and can be pointed at the authors'."""
    runs = plan_of("table=1", "table.archs=[wrn34_10]", "table.seeds=[7]")
    assert {(run.cell.arch, run.settings.seed) for run in runs} == {("wrn34_10", 7)}
    assert len(runs) == 7


def test_a_choice_that_leaves_nothing_names_the_axes():
    with pytest.raises(UsageError, match=r"table=2 has no run with arch=resnet50\. It has .*wrn28_10.*seeds 0, 1"):
        plan_of("table=2", "arch=resnet50")


def test_table_folder():
    paper, small = ScaleConfig("paper"), ScaleConfig("small", "reduced scale")
    assert [table_folder(number, paper) for number in ("2", "10", "demo")] == ["table_02", "table_10", "demo"]
    assert table_folder("2", small) == "small_table_02"
