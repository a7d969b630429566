from __future__ import annotations

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.launch.sweep import pooled_sweep
from llqr_sam.suite.plan.labels import labels, text
from llqr_sam.suite.plan.plan import plan
from tests.suite.plans import plan_of


def swept(*words: str) -> list[str]:
    """The labels of a sweep's runs."""
    pooled = pooled_sweep(["-m", "dry_run=true", *words])
    assert pooled is not None
    return list(labels(pooled[0]).values())


def test_what_varies_is_said():
    assert swept("optim=sam", "optim.rho=0.05,0.1", "seed=1,2") == [
        *("sam rho=0.05 s1", "sam rho=0.05 s2", "sam rho=0.1 s1", "sam rho=0.1 s2")
    ]


def test_a_single_run_is_its_method_and_seed():
    assert list(labels(plan_of("optim=llqr_sam", "seed=3")).values()) == ["llqr_sam-ngd s3"]


def test_what_a_method_or_a_data_set_brings_along_is_said_by_its_name():
    """SAM has a radius and SGDM none; CIFAR-100 has another one, and trains longer."""
    assert swept("optim=sgdm,sam") == ["sgdm s0", "sam s0"]
    assert swept("geometry=ngd,newton", "optim=llqr") == ["llqr-ngd s0", "llqr-newton s0"]
    assert swept("optim=sam", "dataset=digits,cifar100") == [*("digits small_cnn sam s0", "cifar100 resnet18 sam s0")]


def test_a_setting_that_a_method_lacks_is_not_said_of_it():
    runs = [*plan_of("optim=sgdm"), *plan_of("optim=sam", "optim.rho=0.1"), *plan_of("optim=sam", "optim.rho=0.2")]
    assert list(labels(runs).values()) == ["sgdm s0", "sam rho=0.1 s0", "sam rho=0.2 s0"]


def test_what_is_no_methods_own_is_compared_across_methods():
    runs = [*plan_of("optim=sgdm", "protocol.epochs=2"), *plan_of("optim=sam")]
    assert list(labels(runs).values()) == ["sgdm epochs=2 s0", "sam epochs=20 s0"]


def test_no_value_is_a_value():
    runs = [*plan_of("optim=sam"), *plan_of("optim=sam", "dataset.subset=100")]
    assert list(labels(runs).values()) == ["sam subset=null s0", "sam subset=100 s0"]


def test_keys_with_one_last_part_are_written_whole():
    words = ("optim=sam", "optim.norm=metric", "protocol.warmup_epochs=1", "protocol.gamma=0.2")
    runs = [*plan_of("optim=sam"), *plan_of(*words)]
    assert list(labels(runs).values())[1] == "sam warmup_epochs=1 gamma=0.2 s0"
    assert list(labels(plan_of("optim=sam"), swept=("optim.rho",)).values()) == ["sam rho=0.1 s0"]


def test_the_axes_of_a_table_are_said():
    command = Command.of("table='8'", "optim=sam", "seed=0")
    named = list(labels(plan(command)).values())
    assert len(set(named)) == len(named)
    assert all("label_noise=" in label for label in named)


def test_labels_of_a_plan_differ():
    for number in ("1", "4", "demo"):
        runs = {run.run_id: run for run in plan_of(f"table={number}")}
        assert len(set(labels(list(runs.values())).values())) == len(runs)


def test_a_value_is_written_as_it_is_typed():
    written = [text(value) for value in (None, True, 0.05, 1e-5, 0.1234567891, 3, [0.9, 0.99], "cosine")]
    assert written == ["null", "true", "0.05", "1e-05", "0.1234567891", "3", "[0.9,0.99]", "cosine"]
