"""What the streams promise each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llqr_sam.data.streams import MissingDataError, check_batch_size, check_sample_size, open_batches


def test_missing_data_is_a_file_not_found() -> None:
    assert issubclass(MissingDataError, FileNotFoundError)


@pytest.mark.parametrize("size", [0, 11])
def test_sizes_out_of_range(size: int) -> None:
    with pytest.raises(ValueError, match=f"protocol.batch_size={size} .* dataset=digits"):
        check_batch_size(size, 10, "digits")
    with pytest.raises(ValueError, match=f"minibatch of {size}"):
        check_sample_size(size, 10)


@pytest.mark.parametrize("size", [1, 10])
def test_sizes_in_range(size: int) -> None:
    check_batch_size(size, 10, "digits")
    check_sample_size(size, 10)


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
