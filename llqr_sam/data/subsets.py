"""Subsets of a data set: a class-balanced choice of training images, and splits taken from them.

The validation images are the same for every run of a data set. The subset is drawn by the run's seed from what is left,
so that methods are compared on the same images at each seed, and a mean over seeds is a mean over subsets too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llqr_sam.data.arrays import ImageArrays
from llqr_sam.data.imagenet import ImageFolders
from llqr_sam.data.streams import generator

Whole = ImageArrays | ImageFolders


def take_subset(data: Whole, subset: int | None, validation: int | None, seed: int) -> Whole:
    """Leaves ``subset`` images to train on, and puts ``validation`` others of the training images in the tests' place.

    Args:
        data: The whole data set.
        subset: Images to train on; None: all that are not for validation.
        validation: Training images to score on instead of the test images, which are then not used; None: none.
        seed: Determines the subset.

    Raises:
        ValueError: There are not so many images in each class.
    """
    everything = torch.arange(len(data.train_labels))
    if validation is not None:
        held_out = _balanced(data.train_labels, everything, validation, "dataset.validation", "validation")
        kept = torch.ones_like(everything, dtype=torch.bool)
        kept[held_out] = False
        everything = everything[kept]
        data = data.with_test(held_out)
    if subset is not None:
        everything = _balanced(data.train_labels, everything, subset, "dataset.subset", seed, "subset")
    return data.with_train(everything) if len(everything) < len(data.train_labels) else data


def split(called: str, labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Indices of images to train and to test on, in rising order, the same at every call.

    Args:
        called: The data set, for messages.
        labels: ``[N]`` int64.
        fraction: Part of the images of each class to test on, rounded, at least one.

    Raises:
        ValueError: A class has one image.
    """
    order = torch.randperm(len(labels), generator=generator("cpu", "test split"))
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for each in sorted(set(labels.tolist())):
        of_class = order[labels[order] == each]
        if len(of_class) < 2:
            raise ValueError(f"{called}: class {each} has one image, and a split to train and test on takes two.")
        held_out[of_class[: min(max(round(fraction * len(of_class)), 1), len(of_class) - 1)]] = True
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def _balanced(labels: Tensor, available: Tensor, count: int, key: str, *purpose: int | str) -> Tensor:
    """``count`` of the ``available`` indices, in rising order: as many of each class, or one more of some classes."""
    random = generator("cpu", *purpose)
    order = available[torch.randperm(len(available), generator=random)]
    classes = torch.tensor(sorted(set(labels.tolist())))
    more = set(classes[torch.randperm(len(classes), generator=random)[: count % len(classes)]].tolist())
    chosen = []
    for each in classes.tolist():
        of_class = order[labels[order] == each]
        wanted = count // len(classes) + (each in more)
        if wanted > len(of_class):
            problem = f"needs {wanted} training images of class {each}, and there are {len(of_class)}"
            raise ValueError(f"{key}={count} is too many: a class-balanced choice {problem}.")
        chosen.append(of_class[:wanted])
    return torch.cat(chosen).sort().values
