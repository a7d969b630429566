"""Symmetric label noise."""

from __future__ import annotations

import pytest
import torch

from llqr_sam.data.augment import flip_labels


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.6, 0.7, 0.8, 0.3333])
def test_exact_fraction_changes(fraction: float) -> None:
    labels = torch.arange(1000) % 10
    kept = labels.clone()
    noisy = flip_labels(labels, fraction, 10, seed=0)
    assert int((noisy != labels).sum()) == round(fraction * 1000)
    assert torch.equal(labels, kept)
    assert noisy.min() >= 0
    assert noisy.max() < 10


def test_new_labels_are_uniform_over_the_other_classes() -> None:
    """Nine cells of 1,000 expected; five standard deviations."""
    noisy = flip_labels(torch.zeros(10_000, dtype=torch.int64), 0.9, 10, seed=1)
    counts = noisy.bincount(minlength=10)
    assert counts[0] == 1000
    assert (counts[1:] - 1000).abs().max() < 5 * (1000 * 8 / 9) ** 0.5


def test_seed_decides() -> None:
    labels, state = torch.arange(100) % 10, torch.get_rng_state()
    assert torch.equal(flip_labels(labels, 0.4, 10, seed=2), flip_labels(labels, 0.4, 10, seed=2))
    assert not torch.equal(flip_labels(labels, 0.4, 10, seed=2), flip_labels(labels, 0.4, 10, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
