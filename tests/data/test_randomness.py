"""Derived seeds."""

from __future__ import annotations

import torch

from llqr_sam.data.streams import derived_seed, generator


def test_seeds_are_hashes() -> None:
    """Distinct for near and for regrouped parts, in the range a generator takes, and fixed for ever."""
    parts = [(0,), (1,), (0, 1), (1, 0), ("0", 1), (0, "order", 1), (0, "augment", 1), (12, 3), (1, 23)]
    seeds = [derived_seed(*part) for part in dict.fromkeys(parts)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(0, "order", 1) == 7021862330116196507


def test_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    first, second = (torch.rand(4, generator=generator("cpu", 3, "x")) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
