"""Files in a folder of the user mean what they would mean in conf/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from llqr_sam.repository import CONF, ROOT
from llqr_sam.suite.config import sources
from llqr_sam.suite.config.command import Command, every_table
from llqr_sam.suite.config.command_line import checked_arguments, checked_words, groups
from llqr_sam.suite.config.compose import compose, compose_with_hydra
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.launch.slurm import read_profile
from llqr_sam.suite.plan.plan import plan
from tests.suite.config.own import OPTIM, whole, write


@pytest.mark.parametrize(
    "flags",
    [["-cd", "my"], ["--config-dir", "my"], ["--config-dir=my"], ["hydra.searchpath=[my]"]],
    ids=lambda flags: flags[0],
)
def test_each_way_to_name_a_folder(flags, tmp_path, monkeypatch):
    """Relative to the working directory; the other arguments are left, and Hydra need not be told."""
    whole(tmp_path / "my")
    monkeypatch.chdir(tmp_path)
    assert checked_arguments(["-m", *flags, "optim=mysam"]) == ["-m", "optim=mysam"]
    assert sources.folders() == (CONF, tmp_path / "my")
    assert Command.of("optim=mysam").settings.optim.sam.perturbation.rho == 0.2


def test_search_paths_may_be_several_and_file_urls(tmp_path):
    first, second = write(tmp_path / "a", arch__x="name: small_cnn"), write(tmp_path / "b", arch__y="name: small_cnn")
    assert sources.taken([f"hydra.searchpath=[{first},file://{second}]", "seed=1"]) == ["seed=1"]
    assert {"x", "y"} <= set(groups()["arch"])


def test_other_folders_are_read_anew(tmp_path):
    before = groups()
    sources.use(whole(tmp_path))
    assert set(groups()["optim"]) - set(before["optim"]) == {"mysam"}
    assert "table=mine" in every_table()
    sources.use()
    assert groups() == before


@pytest.mark.parametrize(
    "words",
    [
        "optim=mysam arch=narrow",
        "optim=mysam geometry=none",
        "dataset=noisy",
        "dataset=noisy protocol=cifar10 arch=resnet18",
        "dataset=plain protocol=digits",
        "dataset=plain arch=narrow",
        "optim=plain",
        "table=mine scale=mini",
    ],
)
def test_they_compose_as_hydra_composes_them(words, tmp_path):
    """Files without a defaults list too, which are merged in memory where conf/'s own are."""
    plain = {"dataset__plain": "name: digits", "protocol__plain": (CONF / "protocol" / "digits.yaml").read_text()}
    plain |= {"optim__plain": "name: plain\nbase: sgd\nlr: 0.1\nmomentum: 0.0\nweight_decay: 0.0"}
    plain |= {"scale__mini": "# @package _global_\nscale: {name: mini, title: mini}\nprotocol: {epochs: 2}"}
    sources.use(write(whole(tmp_path), **plain))
    checked = tuple(checked_words(words.split()))
    assert OmegaConf.to_yaml(compose(checked)) == OmegaConf.to_yaml(compose_with_hydra(checked))


def test_a_file_means_the_same_inside_conf(tmp_path):
    sources.use(write(tmp_path, optim__mine=(CONF / "optim" / "sam.yaml").read_text()))
    assert Command.of("optim=mine").settings == Command.of("optim=sam").settings


def test_runs_of_a_table_and_profiles(tmp_path):
    sources.use(whole(tmp_path))
    assert [run.cell.method for run in plan(Command.of("table=mine"))] == ["sgdm", "sgdm", "mysam", "mysam"]
    assert read_profile("mine").partition == "short"
    with pytest.raises(UsageError, match="Choose from: alliance, generic, mine"):
        read_profile("yours")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-cd", "nowhere"], "--config-dir=nowhere is not a folder."),
        (["-cd"], "-cd names no folder. Write -cd DIR."),
        (["hydra.searchpath=my"], "hydra.searchpath=my must be a list: hydra.searchpath=[my]."),
        (["hydra.searchpath=[pkg://mine]"], "hydra.searchpath=[pkg://mine] is not possible: only folders are"),
    ],
)
def test_what_is_no_folder(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        sources.taken(arguments)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("name", ["optim__sam", "optim__part__base", "config", "slurm__generic"])
def test_a_name_of_conf_is_taken(name, tmp_path):
    """Hydra would take conf/'s file and say nothing."""
    with pytest.raises(UsageError, match=r"\.yaml has the name of .*: give it another\."):
        sources.use(write(tmp_path, **{name: OPTIM}))


def test_other_files_in_the_folder_do_not_matter(tmp_path):
    sources.use(
        write(tmp_path, notes="not: [yaml", experiments__sam="x", optim__broken="not: [yaml", optim__mysam=OPTIM)
    )
    assert Command.of("optim=mysam").settings.optim.name == "mysam"


def script(name: str, *words: str, folder: Path) -> str:
    """Standard output of a script of the repository in a folder; it must end with status 0."""
    command = [sys.executable, str(ROOT / name), *words, "logger=none", "device=cpu"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_hydras_own_launcher_finds_the_folder(tmp_path):
    whole(tmp_path / "my")
    words = ("-m", "hydra/launcher=submitit_local", "optim=mysam", "seed=0,1", "protocol.epochs=1")
    script("train.py", *words, "-cd", "my", folder=tmp_path)
    assert len(list(tmp_path.glob("results/runs/adhoc/*-mysam-*.json"))) == 2
