from __future__ import annotations

from pathlib import Path

import pytest

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError


def test_config_is_typed_and_run_is_what_the_words_describe():
    command = Command.of("table=2", "paths.results=/tmp/results", "launch=local", "optim=sam", "optim.rho=0.3")
    assert command.config.paths.results == Path("/tmp/results")
    assert command.config.launch.name == "local"
    assert command.table.methods[0].optim == "sgdm"
    assert command.table.output == "/tmp/results/tables/table_02"
    assert command.settings.optim.name == "sam"


def test_a_path_may_begin_with_the_home_folder():
    assert Command.of("paths.results=~/results").config.paths.results == Path.home() / "results"


def test_later_words_replace_those_of_the_same_key():
    command = Command.of("seed=1", "optim=sam").with_words("seed=2", "arch.width=8")
    assert command.words == ("seed=2", "optim=sam", "arch.width=8")
    assert command.settings.seed == 2


def test_words_choose_runs_of_a_table_or_hold_for_all():
    command = Command.of("table=2", "optim=sam", "seed=1", "device=cpu")
    assert command.axes == {"optim": ["sam"], "seed": ["1"]}
    assert command.given == ["device=cpu"]
    assert not command.changes_runs
    assert command.with_words("optim.rho=0.3").changes_runs


def test_several_runs_of_a_table_are_one_command():
    """Its configuration is that of all of them."""
    command = Command.of("table=2", "optim=sam,sgdm", "seed=range(0,2)", "device=cpu")
    assert command.axes == {"optim": ["sam", "sgdm"], "seed": ["0", "1"]}
    assert command.config.table is not None


def test_a_table_that_is_not_named():
    assert Command.of("seed=1").config.table is None
    with pytest.raises(UsageError, match="table=null"):
        _ = Command.of("seed=1").table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("devices=0", "devices=0 must be >= 1"),
        ("stale_minutes=0", "stale_minutes=0.0 must be > 0"),
        ("checkpoint_minutes=-1", "checkpoint_minutes=-1.0 must be >= 0"),
        ("launch=local launch.workers=0", "launch.workers=0 must be >= 1"),
        ("logger.mode=live", "logger.mode=live .* offline, online"),
        ("retry=all", "retry=all .* null, failed"),
        ("table=2 table.metric=bleu", "table.metric=bleu .* top1, val_bleu"),
    ],
)
def test_values_out_of_range(words, message):
    with pytest.raises(UsageError, match=message):
        _ = Command.of(*words.split()).config
