"""Vectors by name."""

from __future__ import annotations

import torch

from llqr_sam.methods.named import dot, single


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
