"""Vectors by name."""

from __future__ import annotations

import pytest
import torch

from llqr_sam.methods.named import alike, dot, follow, single


def test_dot_goes_by_name_not_by_order():
    a = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([[3.0]])}
    b = {"y": torch.tensor([[5.0]]), "x": torch.tensor([7.0, 11.0])}
    assert dot(a, b) == 7 + 22 + 15


def test_single_widens_half_precision_alone():
    """A dictionary without half precision is returned itself: nothing is copied."""
    plain = {"x": torch.ones(2), "y": torch.ones(2, dtype=torch.float64)}
    assert single(plain) is plain
    mixed = single({**plain, "h": torch.full((2,), 1e-7, dtype=torch.float16)})
    assert mixed["h"].dtype == torch.float32
    assert all(mixed[name] is plain[name] for name in plain)
    assert dot({"h": mixed["h"]}, {"h": mixed["h"]}) > 0


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(2, 3, 4, 4, dtype=torch.float64),
        torch.zeros(2, 3, 4, 4, device="meta"),
        torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.zeros(2, 3, 4, 5),
    ],
)
def test_alike_is_more_than_the_shape(other):
    tensor = torch.ones(2, 3, 4, 4)
    assert alike(tensor, torch.zeros_like(tensor))
    assert not alike(tensor, other)


def test_averages_follow_their_gradients():
    """In dtype, device and memory format; one of another shape is another parameter's and is dropped."""
    averages = {name: torch.full((2, 3, 4, 4), 0.5) for name in ("cast", "formatted", "reshaped", "absent", "same")}
    before = dict(averages)
    gradients = {
        "cast": torch.zeros(2, 3, 4, 4, dtype=torch.float64),
        "formatted": torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "reshaped": torch.zeros(1),
        "same": torch.zeros(2, 3, 4, 4),
        "new": torch.zeros(2),
    }
    follow(averages, gradients)
    assert averages.keys() == {"cast", "formatted", "absent", "same"}
    assert all(average.eq(0.5).all() for average in averages.values())
    assert all(alike(averages[name], gradients[name]) for name in ("cast", "formatted", "same"))
    assert averages["same"] is before["same"]
    assert averages["absent"] is before["absent"]
