"""Symmetric label noise (paper, Table 8)."""

from __future__ import annotations

import torch
from torch import Tensor

from llqr_sam.data.randomness import generator


def flip_labels(labels: Tensor, fraction: float, classes: int, seed: int) -> Tensor:
    """Replace exactly round(fraction N) labels, chosen at random, by a uniformly random other class.

    Args:
        labels: ``[N]`` int64 in [0, classes); not changed.
        fraction: gamma, in [0, 1).
        classes: Number of classes.
        seed: Determines which labels change and to what; the same on every device.

    Returns:
        New labels ``[N]`` int64, on the device of ``labels``.

    Raises:
        ValueError: The fraction is outside [0, 1), or there is no other class to flip to.
    """
    check_fraction(fraction)
    count = round(fraction * len(labels))
    noisy = labels.clone()
    if count == 0:
        return noisy
    if classes < 2:
        raise ValueError(f"dataset.label_noise={fraction} needs at least two classes, not {classes}.")
    random = generator("cpu", seed, "label noise")
    flipped = torch.randperm(len(labels), generator=random)[:count].to(labels.device)
    # A shift by 1 .. classes - 1, modulo the classes, is uniform over the other classes.
    shifts = torch.randint(1, classes, (count,), generator=random).to(labels.device)
    noisy[flipped] = (noisy[flipped] + shifts) % classes
    return noisy


def check_fraction(fraction: float) -> None:
    """Raise ValueError unless the fraction is in [0, 1)."""
    if not 0 <= fraction < 1:
        raise ValueError(f"dataset.label_noise={fraction} is not a fraction of the labels: it must be in [0, 1).")
