"""What the streams promise each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from llqr_sam.data.streams import MissingDataError, derived_seed, draw_sample, generator, open_batches


def test_missing_data_is_a_file_not_found() -> None:
    assert issubclass(MissingDataError, FileNotFoundError)


@pytest.mark.parametrize("size", [0, 11])
def test_a_sample_out_of_range(size: int) -> None:
    with pytest.raises(ValueError, match=f"minibatch of {size} .* 10 training samples"):
        draw_sample(0, size, 10, seed=0)


@pytest.mark.parametrize("size", [1, 10])
def test_a_sample_is_drawn_without_replacement(size: int) -> None:
    assert len(draw_sample(0, size, 10, seed=0).unique()) == size


def test_batches_are_shut_down_with_their_block() -> None:
    """Also when they pass through another generator, and an error keeps its traceback."""
    ended = []

    def read() -> Iterator[int]:
        try:
            yield from range(3)
        finally:
            ended.append("reader")

    def formatted(batches: Iterator[int]) -> Iterator[int]:
        with open_batches(batches) as numbers:
            for number in numbers:
                yield -number

    with pytest.raises(ZeroDivisionError), open_batches(formatted(read())) as batches:
        assert next(batches) == 0
        next(batches) / 0
    assert ended == ["reader"]
    with open_batches([1, 2]) as plain:
        assert list(plain) == [1, 2]


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
