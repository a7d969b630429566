"""Every question about a task has its answer in the registry, whatever the data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from llqr_sam.data.registry import fingerprint
from llqr_sam.data.streams import MissingDataError
from llqr_sam.data.translation import load_corpus
from llqr_sam.engine.loop.run import execute
from llqr_sam.engine.settings.run_settings import ArchSettings, DatasetSettings
from llqr_sam.engine.tasks import registry
from llqr_sam.engine.tasks.classification import Classification
from llqr_sam.engine.tasks.translation import Translation


def test_every_data_set_and_network_has_one_task() -> None:
    assert len(set(registry.datasets())) == len(registry.datasets())
    assert len(set(registry.archs())) == len(registry.archs())
    assert registry.task_for("digits") is registry.task_for("imagenet") is Classification
    assert registry.task_for("iwslt14") is registry.task_for("multi30k") is Translation
    with pytest.raises(ValueError, match="dataset=mnist .* digits, .*multi30k"):
        registry.task_for("mnist")


def test_each_data_set_has_a_network() -> None:
    for dataset in registry.datasets():
        assert registry.task_for(dataset).archs_for(dataset)


def test_a_run_that_does_not_fit_together_is_not_begun(make_settings: Any, make_options: Any) -> None:
    """The library's user reaches the checks of the command line, too."""
    settings, options = dataclasses.replace(make_settings(), arch=ArchSettings("resnet18")), make_options()
    with pytest.raises(ValueError, match="arch=resnet18 takes images of 16x16 or larger, dataset=digits has 8x8"):
        execute(settings, options)
    with pytest.raises(ValueError, match="arch=resnet18 takes images, dataset=iwslt14 has sentences"):
        execute(dataclasses.replace(settings, dataset=DatasetSettings("iwslt14")), options)
    assert not options.workspace.exists()


def test_the_hash_of_images_is_that_of_their_data_set(tmp_path: Path) -> None:
    digits = DatasetSettings("digits")
    assert registry.task_for("digits").fingerprint(digits, None, tmp_path) == fingerprint("digits", None, tmp_path)
    with pytest.raises(MissingDataError, match=f"dataset=iwslt14 is not at {tmp_path}"):
        registry.task_for("iwslt14").fingerprint(DatasetSettings("iwslt14"), None, tmp_path)


def test_a_data_set_is_looked_for_and_not_read(tmp_path: Path) -> None:
    """An empty file will do; the digits are in a package."""
    places = {
        "cifar10": "cifar10.npz",
        "tinyimagenet": "tiny-imagenet-200",
        "imagenet": "imagenet",
        "iwslt14": "iwslt14",
    }
    for name, place in places.items():
        task = registry.task_for(name)
        with pytest.raises(MissingDataError, match=f"dataset={name} is not at {tmp_path}/.* Prepare it with: python"):
            task.look_for(DatasetSettings(name), None, tmp_path)
        (tmp_path / place).mkdir()
        task.look_for(DatasetSettings(name), None, tmp_path)
        with pytest.raises(MissingDataError):
            task.look_for(DatasetSettings(name), tmp_path / "elsewhere", tmp_path)
    registry.task_for("digits").look_for(DatasetSettings("digits"), None, tmp_path)


@pytest.mark.nmt
def test_of_sentences(captions: Path) -> None:
    corpus = load_corpus("multi30k", path=None, root=captions, max_tokens=300, seed=0, device=torch.device("cpu"))
    assert Translation.fingerprint(DatasetSettings("multi30k"), None, captions) == corpus.fingerprint


def test_of_sentences_without_fairseq(tmp_path: Path) -> None:
    """Every file counts; what is missing is named."""
    names = [f"dict.{language}.txt" for language in ("de", "en")]
    names += [
        f"{split}.de-en.{side}.{kind}"
        for split in ("train", "valid")
        for side in ("de", "en")
        for kind in ("bin", "idx")
    ]
    for name in names:
        (tmp_path / name).write_text(name)
    hashes = {Translation.fingerprint(DatasetSettings("iwslt14"), tmp_path, tmp_path)}
    for name in names:
        (tmp_path / name).write_text("other")
        hashes.add(Translation.fingerprint(DatasetSettings("iwslt14"), tmp_path, tmp_path))
    assert len(hashes) == 11
    (tmp_path / names[-1]).unlink()
    with pytest.raises(MissingDataError, match=f"{names[-1]} is missing"):
        Translation.fingerprint(DatasetSettings("iwslt14"), tmp_path, tmp_path)
