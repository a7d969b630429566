"""Names, known facts, and what bad arguments get."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llqr_sam.data.loading import Splits
from llqr_sam.data.registry import info, known, names
from llqr_sam.data.streams import MissingDataError, Share
from tests.waiting import PATIENCE


def test_known_without_touching_data() -> None:
    described = [name for name in names() if known(name)]
    facts = {name: (info(name).classes, info(name).image_size, info(name).channels) for name in described}
    assert facts == {
        "digits": (10, 8, 1),
        "cifar10": (10, 32, 3),
        "cifar100": (100, 32, 3),
        "tinyimagenet": (200, 64, 3),
        "imagenet": (1000, 224, 3),
    }
    assert all(len(info(name).mean) == len(info(name).std) == info(name).channels for name in described)


def test_digits_are_whole(load_with: Callable[..., Splits]) -> None:
    """In every share of them."""
    for share in (Share(), Share(1, 3)):
        assert load_with("digits", share=share).samples == info("digits").whole


def test_cifar_normalisation_is_the_authors() -> None:
    assert info("cifar10").mean == (0.4914, 0.4822, 0.4465)
    assert info("cifar10").std == (0.2470, 0.2435, 0.2616)
    assert info("cifar100").mean == (0.5071, 0.4867, 0.4408)
    assert info("cifar100").std == (0.2675, 0.2565, 0.2761)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "cifar11"}, "dataset=cifar11 .* digits, cifar10"),
        ({"name": "digits", "batch_size": 1298}, "protocol.batch_size=1298 .* 1297 training samples"),
    ],
)
def test_bad_arguments_get_one_sentence(
    load_with: Callable[..., Splits], arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load_with(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tinyimagenet", "imagenet"])
def test_nothing_is_downloaded(load_with: Callable[..., Splits], name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=f"python scripts/prepare_data.py {name}$"):
        load_with(name)
    with pytest.raises(MissingDataError, match=f"dataset={name} is not at {tmp_path}/absent"):
        load_with(name, path=tmp_path / "absent")


def test_label_noise_changes_training_labels_only(load_with: Callable[..., Splits]) -> None:
    """40 % of 1,297 labels, the same images; test labels as they were; another seed, other labels."""
    clean, noisy = (load_with("digits", label_noise=noise) for noise in (0.0, 0.4))
    (x, y), (noisy_x, noisy_y) = (splits.train.sample(0, 1297) for splits in (clean, noisy))
    assert torch.equal(x, noisy_x)
    assert int((y != noisy_y).sum()) == round(0.4 * 1297)
    for (_, before), (_, after) in zip(clean.test, noisy.test, strict=True):
        assert torch.equal(before, after)


def test_a_fingerprint_is_of_the_data_and_of_nothing_else(load_with: Callable[..., Splits]) -> None:
    plain = load_with("digits").fingerprint
    assert load_with("digits", label_noise=0.5, seed=3, augment=False, batch_size=7).fingerprint == plain


def test_augment_off_leaves_images_alone(load_with: Callable[..., Splits]) -> None:
    """Two samples of all images, at two steps, hold the same pixels in another order."""
    stream = load_with("digits", augment=False).train
    sums = [stream.sample(step, 1297)[0].sum(dim=(1, 2, 3)).sort().values for step in (0, 1)]
    torch.testing.assert_close(sums[0], sums[1])


def test_batch_crop_differs_from_image_crop(load_with: Callable[..., Splits]) -> None:
    per_image, per_batch = (load_with("digits", crop=crop).train.sample(0, 100)[0] for crop in ("image", "batch"))
    assert not torch.equal(per_image, per_batch)


def test_importing_data_stays_light() -> None:
    """scikit-learn and fairseq are imported only when a data set needs them."""
    heavy = {"sklearn", "scipy", "torchvision", "timm", "fairseq"}
    code = f"import sys, llqr_sam.data.registry, llqr_sam.data.translation; print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert result.stdout.strip() == "set()", result.stderr
