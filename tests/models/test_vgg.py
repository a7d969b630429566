"""VGG-16 with batch-norm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llqr_sam.models.vgg import VGG16BN


def test_curvature_products(check_curvature_products: Callable[[nn.Module, Tensor], None]) -> None:
    torch.manual_seed(0)
    model = VGG16BN(10, width=4).double()
    check_curvature_products(model, torch.randn(2, 3, 32, 32, dtype=torch.float64))


def test_head_is_the_authors() -> None:
    """512 - dropout - 512 - relu - dropout - 512 - relu - classes; sixteen weight layers; convolutions with bias."""
    model = VGG16BN(10, width=4)
    assert [type(module).__name__ for module in model.classifier] == [
        "Dropout", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear",
    ]  # fmt: skip
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 16
    assert all(layer.bias is not None for layer in layers)
