"""Own data and any library's network on the command line: what runs call them, and what is refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from llqr_sam.engine.settings.run_settings import ArchSettings, DatasetSettings, RunSettings, file_label
from llqr_sam.methods.settings import SettingError
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import MISTAKES, explain


def settings(*words: str) -> RunSettings:
    return Command.of(*words).settings


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/data/flowers", "flowers"),
        ("/data/flowers/", "flowers"),
        ("flowers.npz", "flowers"),
        ("../my flowers.v2.npz", "my_flowers_v2"),
        ("a-b", "a_b"),
        ("hf_hub:timm/some.net", "some_net"),
        ("convnext_atto", "convnext_atto"),
    ],
)
def test_a_label_can_stand_in_a_file_name(path: str, label: str) -> None:
    assert file_label(path) == label
    assert DatasetSettings(path, source="folder").name == ArchSettings(path, source="timm").name == label


def test_data_are_called_after_their_path_or_collection() -> None:
    assert settings("dataset=folder", "dataset.path=/data/flowers.v2", "optim=sgdm").run_id.startswith(
        "flowers_v2-resnet18-"
    )
    assert settings("dataset=npz", "dataset.path=a/b.npz").dataset.name == "b"
    words = ("dataset=torchvision", "dataset.collection=FashionMNIST", "dataset.path=/data")
    assert settings(*words).dataset.name == "FashionMNIST"
    assert settings("dataset=folder", "dataset.path=/data/imagenet").dataset.name == "imagenet_folder"


def test_networks_are_called_after_their_model() -> None:
    words = ("dataset=cifar10", "optim=sgdm", "arch=timm", "arch.model=convnext_atto.d2_in1k")
    found = settings(*words, "arch.args.drop_path_rate=0.1", "arch.args.dims=[8, 16]")
    assert (found.arch.name, found.arch.builder) == ("convnext_atto_d2_in1k", "timm")
    assert found.arch.args == {"drop_path_rate": 0.1, "dims": [8, 16]}
    assert RunSettings.from_dict(found.as_dict()) == found
    others = {settings(*words).run_id, settings(*words, "arch.pretrained=true").run_id, found.run_id}
    assert len(others) == 3
    assert settings(*words, "arch.pretrained=false").run_id == settings(*words).run_id


def test_the_place_of_data_is_not_in_the_run_id(tmp_path: Path) -> None:
    ids = {settings("dataset=npz", f"dataset.path={folder}/flowers.npz").run_id for folder in ("here", "there")}
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("dataset=folder", "dataset.path=null must have a value for dataset=folder."),
        ("dataset=npz", "dataset.path=null must have a value for dataset=npz."),
        ("dataset=torchvision dataset.path=d", "dataset.collection=null must have a value for dataset=torchvision."),
        (
            "dataset=torchvision dataset.collection=MNIST",
            "dataset.path=null must have a value for dataset=torchvision: where the data are.",
        ),
        ("arch=timm dataset=cifar10", "arch.model=null must have a value for arch=timm."),
        ("arch.model=resnet18", "arch.model=resnet18 has no use with arch=small_cnn. Only these take a model: timm,"),
        ("arch.args.depth=3", "arch.args.depth=3 has no use with arch=small_cnn. Its arguments: none."),
        ("dataset.image_size=32", "dataset.image_size=32 has no use with dataset=digits. It is for: folder, npz,"),
        ("dataset=folder dataset.path=d dataset.test_fraction=1", "dataset.test_fraction=1.0 must be in (0, 1)."),
        ("dataset=npz dataset.path=.", "dataset.name=. says nothing to call it by in tables: it must have a letter"),
        ("dataset=iwslt14 arch=timm arch.model=vit_tiny_patch16_224", "arch=timm takes images, dataset=iwslt14 has"),
        ("dataset=iwslt14 dataset.flip=false", "dataset.flip=False has no use with dataset=iwslt14"),
    ],
)
def test_a_mistake_is_one_sentence(words: str, sentence: str) -> None:
    with pytest.raises(MISTAKES) as caught:
        settings(*words.split())
    assert explain(caught.value).startswith(sentence)
    assert "\n" not in explain(caught.value)


def test_a_name_without_letters_is_refused() -> None:
    with pytest.raises(SettingError, match="dataset.name=... says nothing to call it by"):
        DatasetSettings("...")
