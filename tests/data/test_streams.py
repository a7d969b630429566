"""What the streams promise each other."""

from __future__ import annotations

import pytest

from llqr_sam.data.streams import MissingDataError, check_batch_size, check_sample_size


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
