from __future__ import annotations

import shlex

import pytest

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import checked_arguments, checked_words, keys
from llqr_sam.suite.config.errors import UsageError

REFUSED = {
    "optim=llqr_sma": ["optim=llqr_sma is not an optimizer here", "adamw", "(did you mean llqr_sam?)"],
    "optim=sam,sdgm": ["optim=sdgm", "sgdm"],
    "dataset=mnist": ["dataset=mnist is not a data set here", "cifar100"],
    "arch=resnet20": ["arch=resnet20 is not an architecture here", "resnet18"],
    "geometry=fisher": ["geometry=fisher", "ngd", "newton"],
    "structure=block": ["structure=block is not a block structure here", "ekfac"],
    "table=11": ["table=11 is not a table here", "demo"],
    "optim.roh=1": ["unknown key optim.roh", "did you mean rho?"],
    "optm.rho=1": ["unknown key optm.rho", "did you mean"],
    "sede=1": ["unknown key sede", "did you mean seed?"],
    "launch.gpus=4": ["launch.gpus is not a key", "devices=4 trains one run on 4 GPUs", "launch.array_parallelism=4"],
    "launch.devices=2": ["launch.devices is not a key", "devices=2 trains one run", "launch.workers=2"],
    "gpus=4": ["gpus is not a key", "devices=4"],
    "launch.nodes=2": ["launch.nodes is not a key", "devices=", "devices_per_node"],
    "launch.jobs=8": ["launch.array_parallelism=8 (launch=slurm)", "launch.workers=8 (launch=local)"],
    "launch.walltime=12:00:00": ["launch.time=12:00:00"],
    "time=2-00:00:00": ["time is not a key: write launch.time=2-00:00:00."],
    "launch.tiem=90": ["unknown key launch.tiem", "did you mean time?"],
    "+optim.extra=1": ["+optim.extra=1", "fixed"],
    "~seed": ["~seed", "fixed"],
    "seed": ["seed is not of the form key=value"],
    "optim.name=mine": ["choose with optim=mine"],
    "table.seeds=[0]": ["needs a table", "demo"],
    "optim=glob(x*)": ["optim=glob(x*) matches none of optim's choices", "sgdm"],
    "seed=glob(*)": ["seed=glob(*) is not possible", "glob() chooses files"],
}


@pytest.mark.parametrize(("word", "phrases"), REFUSED.items(), ids=list(REFUSED))
def test_a_bad_word_is_one_sentence_with_key_value_and_choices(word, phrases):
    with pytest.raises(UsageError) as caught:
        checked_words([word])
    message = str(caught.value)
    assert "\n" not in message
    assert all(phrase in message for phrase in phrases)


def test_good_words_pass_and_table_numbers_are_quoted():
    """Hydra reads a bare ``table=2`` as an integer and refuses it."""
    assert list(checked_words(["table=2,demo", "seed=0,1", "optim.rho=0.3"])) == [
        "table='2','demo'",
        "seed=0,1",
        "optim.rho=0.3",
    ]
    assert list(checked_words(["table=null", "hydra.verbose=true"])) == ["hydra.verbose=true"]
    assert list(checked_words(list(checked_words(["table=2"])))) == ["table='2'"]


@pytest.mark.parametrize(("word", "meant"), [("rho=0.1", "optim.rho"), ("epochs=2", "protocol.epochs")])
def test_a_key_without_its_group_is_named_with_it(word, meant):
    with pytest.raises(UsageError, match=rf"unknown key \w+\. .* \(did you mean {meant}\?\)"):
        checked_words([word])


def test_a_glob_is_the_choices_that_it_matches():
    globs = ["optim=glob([sam,*gdm])", "structure=glob(*kfac,exclude=diag*)", "table=glob([1,2])"]
    assert list(checked_words(globs)) == ["optim=sam,sgdm", "structure=ekfac,kfac", "table='1','2'"]


def test_ways_to_sweep_are_left_to_hydra():
    words = ["seed=range(0,3)", "optim.rho=interval(0.05,0.4)", "optim=choice(sam,sgdm)", "hydra/sweeper=optuna"]
    assert list(checked_words(words)) == words


def test_flags_come_first_and_unknown_ones_are_refused():
    assert checked_arguments(["seed=0,1", "-m", "optim=sam"]) == ["-m", "seed=0,1", "optim=sam"]
    assert checked_arguments(["--cfg", "job", "seed=1"]) == ["--cfg", "job", "seed=1"]
    with pytest.raises(UsageError, match="--fast"):
        checked_arguments(["--fast"])


def test_keys_are_those_of_the_schema():
    assert {"seed", "optim.rho", "protocol.methods.ema.ngd", "paths.results", "table.seeds"} <= keys()
    assert "protocol.methods.friendly_decay.*" in keys()


@pytest.mark.parametrize("folder", ["/tmp/größe", "/tmp/ä b", "/tmp/日本", "/tmp/a#b!"])
def test_text_that_only_hydra_cannot_read_needs_no_quotes(folder):
    assert str(Command.of(f"paths.results={folder}").config.paths.results) == folder
    (word,) = checked_arguments([f"paths.results={folder}"])
    assert word == f"paths.results='{folder}'"
    assert checked_arguments([word]) == [word]


@pytest.mark.parametrize("folder", ["/x/a=b,c", "/x/(y)", "/x/[y", "/x/{y}", "/x/it's", '/x/"y', "/x/a,b=c'd\"e"])
def test_other_text_is_told_how_to_be_quoted(folder):
    """And what the line says is what the shell then gives."""
    with pytest.raises(UsageError) as refused:
        checked_arguments([f"paths.results={folder}"])
    said = str(refused.value)
    assert said.startswith(f"paths.results={folder} cannot be read: ")
    (word,) = shlex.split(said.partition("If it is text, write ")[2].removesuffix("."))
    assert str(Command.of(word).config.paths.results) == folder


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("optim==sam", "optim==sam has more than one equals sign. Write optim=sam."),
        ("optim=", "optim= has no value."),
        ("paths.results=", "paths.results= has no value."),
        ("-", "- is not of the form key=value."),
        ("=sam", "=sam is not of the form key=value."),
        ("größe=3", "größe=3 is not of the form key=value."),
    ],
)
def test_a_word_that_is_none_is_named(word, line):
    with pytest.raises(UsageError) as refused:
        checked_arguments([word])
    assert str(refused.value) == line


@pytest.mark.parametrize("flag", ["-sc", "--shell-completion"])
def test_shell_completion_is_hydras(flag):
    assert checked_arguments([flag, "install=bash"]) == [flag, "install=bash"]
