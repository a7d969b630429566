"""Vectors by name."""

from __future__ import annotations

import torch

from llqr_sam.methods.named import dot


def test_dot_goes_by_name_not_by_order():
    a = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([[3.0]])}
    b = {"y": torch.tensor([[5.0]]), "x": torch.tensor([7.0, 11.0])}
    assert dot(a, b) == 7 + 22 + 15
