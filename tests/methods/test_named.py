"""Vectors by name."""

from __future__ import annotations

import pytest
import torch

from llqr_sam.methods.named import alike, dot, float32_if_half, follow


def test_dot_goes_by_name_not_by_order():
    a = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([[3.0]])}
    b = {"y": torch.tensor([[5.0]]), "x": torch.tensor([7.0, 11.0])}
    assert dot(a, b) == 7 + 22 + 15


def test_single_widens_half_precision_alone():
    """A dictionary without half precision is returned itself: nothing is copied."""
    plain = {"x": torch.ones(2), "y": torch.ones(2, dtype=torch.float64)}
    assert float32_if_half(plain) is plain
    mixed = float32_if_half({**plain, "h": torch.full((2,), 1e-7, dtype=torch.float16)})
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
    """In dtype, device and memory format; one of another shape is another parameter's and starts anew."""
    averages = {name: torch.full((2, 3, 4, 4), 0.5) for name in ("cast", "formatted", "reshaped", "absent", "same")}
    before = dict(averages)
    gradients = {
        "cast": torch.zeros(2, 3, 4, 4, dtype=torch.float64),
        "formatted": torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "reshaped": torch.zeros(1),
        "same": torch.zeros(2, 3, 4, 4),
        "new": torch.zeros(2),
    }
    known = follow(averages, gradients)
    assert known.keys() == {"cast", "formatted", "same"}
    started = {name: averages.pop(name) for name in ("reshaped", "new")}
    assert all(average.eq(0).all() and average is not gradients[name] for name, average in started.items())
    assert all(average.eq(0.5).all() for average in averages.values())
    assert all(alike(averages[name], gradients[name]) for name in ("cast", "formatted", "same"))
    assert averages["same"] is before["same"]
    assert averages["absent"] is before["absent"]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5e-7), (torch.float64, 1e-13)])
@pytest.mark.parametrize("same", [True, False])
def test_dot_is_exact_to_a_part_of_the_sum_of_magnitudes(dtype, bound, same):
    """Of a million entries, a scalar, an empty tensor and one of another stride; sums in float32 would lose 1e-4."""
    shapes = (1_000_000,), (), (0, 3), (2, 3, 4, 4)
    a = {str(i): torch.randn(shape, dtype=dtype) + 0.1 for i, shape in enumerate(shapes)}
    a["3"] = a["3"].to(memory_format=torch.channels_last)
    b = a if same else {name: torch.randn_like(x) for name, x in a.items()}
    products = [x.double() * b[name].double() for name, x in a.items()]
    found = dot(a, b)
    assert (found.dtype, found.shape) == (dtype, ())
    size = float(sum(p.abs().sum() for p in products))
    assert abs(float(found) - float(sum(p.sum() for p in products))) < bound * size


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_dot_is_not_finite_where_an_entry_is_not(bad):
    a, b = {"x": torch.tensor([1.0, bad]), "y": torch.ones(3)}, {"x": torch.ones(2), "y": -torch.ones(3)}
    assert not dot(a, b).isfinite()
    assert not dot(a, a).isfinite()


def test_dot_of_mixed_dtypes_is_in_the_widest():
    a = {"x": torch.ones(3), "y": torch.full((2,), 2.0, dtype=torch.float64)}
    b = {"x": torch.full((3,), 2.0), "y": torch.ones(2, dtype=torch.float64)}
    assert dot(a, b) == 10
    assert dot(a, b).dtype == torch.float64
