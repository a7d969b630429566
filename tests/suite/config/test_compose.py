from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from llqr_sam.repository import CONF
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import checked_words, groups
from llqr_sam.suite.config.compose import compose, compose_with_hydra
from llqr_sam.suite.config.errors import MISTAKES, explain


def test_composes_with_and_without_a_running_hydra():
    alone = compose(["seed=3"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose(["seed=3"]) == alone
    assert alone.seed == 3
    assert alone.dataset.name == "digits"


def outcome(composer: Callable[[tuple[str, ...]], DictConfig], words: list[str]) -> tuple[DictConfig, str]:
    """What it composes, or what it says."""
    try:
        return composer(tuple(checked_words(words))), ""
    except MISTAKES as mistake:
        return OmegaConf.create(), explain(mistake)


def assert_as_hydra(words: list[str]) -> None:
    """In memory the same keys, values and interpolations as in Hydra, or the same line for an error."""
    (found, error), (expected, hydras_error) = outcome(compose, words), outcome(compose_with_hydra, words)
    assert error == hydras_error
    assert found == expected
    assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)


@pytest.mark.parametrize(
    "words",
    [
        "arch=resnet18 dataset=cifar10 geometry=newton",
        "arch.width=8 arch=vit_tiny dataset=imagenet optim=sgdm",
        "dataset=multi30k optim=llqr structure=kfac protocol.methods.lr=1e-3",
        "precision=fast precision.deterministic=true launch=local launch.workers=3 logger=none",
        "table=2 table.seeds=[7] paths.results=/tmp/x select=weight_decay",
        "table=null",
        "arch=vgg16_bn arch=resnet18",
        "optim=sam,sgdm",
        "seed=0,1",
        "protocol.methods={lr: 0.3}",
        "protocol.epochs=many",
        "optim.betas=[0.9,0.99] table=8 optim=adam",
        "protocol=cifar10",
        "hydra.run.dir=elsewhere optim=sam",
    ],
)
def test_words_compose_as_in_hydra(words):
    assert_as_hydra(words.split(" ") if "{" not in words else [words])


@pytest.mark.slow
@pytest.mark.parametrize("number", groups()["table"])
def test_every_cell_of_a_table_composes_as_in_hydra(number):
    table = Command.of(f"table={number}").table
    for dataset, arch, noise, method in product(table.datasets, table.archs, table.label_noise, table.methods):
        words = [f"dataset={dataset}", f"arch={arch}", f"dataset.label_noise={noise}", f"optim={method.optim}"]
        assert_as_hydra([*words, *([f"geometry={method.geometry}"] if method.geometry else []), *table.words])
