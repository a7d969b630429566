"""Scales: the paper's changes nothing, a smaller one changes every run of a table and stands apart."""

from __future__ import annotations

import pytest

from llqr_sam.suite.config.command import Command, every_table
from llqr_sam.suite.config.errors import MISTAKES
from llqr_sam.suite.plan.plan import plan

TWINS = ("2", "4", "7", "8")


def test_the_papers_scale_is_the_default() -> None:
    for words in (["dataset=cifar100", "optim=sam"], ["table=2"]):
        runs, same = plan(Command.of(*words)), plan(Command.of(*words, "scale=paper"))
        assert [run.run_id for run in runs] == [run.run_id for run in same]
        assert [run.folder for run in runs] == [run.folder for run in same]


@pytest.mark.slow
@pytest.mark.parametrize("number", TWINS)
def test_a_twin_keeps_the_papers_share_of_a_run_in_its_averages(number: str) -> None:
    """Refreshes times (1 - EMA), which is how often the average is renewed in a run, to the nearest refresh."""

    def renewals(words: list[str]) -> dict[str, float]:
        found = {}
        for run in plan(Command.of(*words)):
            settings, llqr = run.settings, run.settings.optim.llqr
            if llqr is not None:
                images = settings.dataset.subset or 50_000
                steps = settings.protocol.epochs * (images // (settings.protocol.batch_size or 1))
                found[llqr.divergence] = -(-steps // llqr.interval) * (1 - llqr.ema)
        return found

    paper, small = renewals([f"table={number}"]), renewals([f"table={number}", "scale=small"])
    assert set(paper) == set(small)
    for divergence, value in paper.items():
        assert small[divergence] == pytest.approx(value, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", TWINS)
def test_a_twin_differs_from_its_table_in_scale_alone(number: str) -> None:
    """Same data sets, methods and base optimizer; fewer networks or noise levels; at least five seeds."""
    paper, small = (plan(Command.of(f"table={number}", *words)) for words in ([], ["scale=small"]))
    cells = {run.cell for run in small}
    assert cells <= {run.cell for run in paper}
    assert len(cells) * 5 <= len(small)
    assert {(c.dataset, c.method, c.geometry) for c in cells} == {
        (run.cell.dataset, run.cell.method, run.cell.geometry) for run in paper
    }
    by_cell = {run.cell: run.settings for run in paper}
    for run in small:
        ours, theirs = run.settings, by_cell[run.cell]
        assert ours.optim.base == theirs.optim.base
        assert (ours.protocol.batch_size, ours.protocol.schedule) == (
            theirs.protocol.batch_size,
            theirs.protocol.schedule,
        )
        assert (ours.dataset.subset, ours.dataset.validation) == (2500, None)
        assert run.folder == f"small_table_0{number}"


def test_a_twin_stands_apart_and_says_its_scale() -> None:
    table, twin = Command.of("table=2").table, Command.of("table=2", "scale=small").table
    assert (table.output, twin.output) == ("results/tables/table_02", "results/tables/small/table_02")
    assert twin.title.startswith(f"{table.title}, at reduced scale")


def test_a_run_and_its_twin_in_a_table_are_the_same_run() -> None:
    (alone,) = plan(Command.of("dataset=cifar100", "arch=resnet18", "optim=sam", "seed=3", "scale=small"))
    (tabled,) = plan(Command.of("table=2", "arch=resnet18", "optim=sam", "seed=3", "scale=small"))
    assert alone.run_id == tabled.run_id


def test_a_scale_reaches_what_is_no_setting_of_a_run() -> None:
    """conf/config.yaml comes after the scale, so that a value there would win."""
    assert Command.of("dataset=cifar100", "scale=small").config.sharpness_samples == 256
    assert Command.of("dataset=cifar100").config.sharpness_samples == 1024


def test_words_win_over_the_scale() -> None:
    settings = Command.of("dataset=cifar100", "scale=small", "protocol.epochs=2", "arch.width=8").settings
    assert (settings.protocol.epochs, settings.arch.width, settings.dataset.subset) == (2, 8, 2500)
    assert len(plan(Command.of("table=2", "arch=resnet18", "scale=small", "table.seeds=[7]", "optim=sam"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weight_decay", "rho", "fisher_rho"])
def test_selection_sees_no_test_image_and_no_seed_of_the_table(name: str) -> None:
    runs = plan(Command.of("table=2", "scale=small", f"select={name}"))
    assert runs
    assert all(run.settings.dataset.validation for run in runs)
    assert not {run.settings.seed for run in runs} & {
        run.settings.seed for run in plan(Command.of("table=2", "scale=small"))
    }


def test_every_table_comes_at_each_scale_that_has_it() -> None:
    names = list(every_table())
    assert [name for name in names if "scale" in name] == [f"table={number} scale=small" for number in TWINS]
    assert list(every_table("scale=small")) == [name for name in names if "scale" in name]
    assert list(every_table("scale=paper")) == [name for name in names if "scale" not in name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("table=3 scale=small", "table=3 has no twin at scale=small"),
        ("scale=small", "scale=small has no values for dataset=digits. It is for: cifar10, cifar100"),
        ("scale=tiny", "scale=tiny is not a scale here. Choose from: paper, small"),
        ("table=2 scale=small scale.title=''", "scale.title= is not possible: tables say their scale"),
        ("dataset=cifar10 dataset.subset=0", "dataset.subset=0 must be >= 1"),
        ("dataset=iwslt14 optim=adamw dataset.subset=10", "dataset.subset=10 has no use with dataset=iwslt14"),
    ],
)
def test_a_wrong_word_gets_one_sentence(words: str, message: str) -> None:
    command = Command.of(*words.split())
    with pytest.raises(MISTAKES, match=message):
        _ = plan(command)
