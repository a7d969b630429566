"""The convolutional networks: starting weights, published counts, and what every block must be able to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from llqr_sam.models.convolutional import (
    VGG16BN,
    PyramidBottleneck,
    PyramidNet,
    ResNet18,
    SmallCNN,
    WideResNet,
    initialise_convolutions,
)
from llqr_sam.torchvision_compat import ensure_torchvision


@pytest.mark.parametrize(
    ("make", "images"),
    [
        (partial(SmallCNN, width=4), (3, 1, 8, 8)),
        pytest.param(partial(VGG16BN, width=4), (2, 3, 32, 32), marks=pytest.mark.slow),
        (partial(ResNet18, width=4), (2, 3, 32, 32)),
        (partial(WideResNet, depth=10, factor=1), (2, 3, 16, 16)),
        pytest.param(partial(PyramidNet, depth=29, alpha=12), (2, 3, 16, 16), marks=pytest.mark.slow),
    ],
    ids=["small_cnn", "vgg", "resnet18", "wide_resnet", "pyramidnet"],
)
def test_curvature_products(
    make: Callable[[int], nn.Module],
    images: tuple[int, ...],
    check_curvature_products: Callable[[nn.Module, Tensor], None],
) -> None:
    check_curvature_products(make(10).double(), torch.randn(*images, dtype=torch.float64))


def parameters(make: Callable[[int], nn.Module]) -> int:
    """Of a network for 10 classes."""
    with torch.device("meta"):
        return sum(p.numel() for p in make(10).parameters())


def test_convolutions_are_kaiming_normal_by_fan_out() -> None:
    """Standard deviation sqrt(2 / (outputs * kernel area)): arXiv 1502.01852, backward form."""
    convolution = nn.Conv2d(64, 128, 3)
    initialise_convolutions(nn.Sequential(convolution))
    expected = math.sqrt(2 / (128 * 9))
    assert abs(convolution.weight.std().item() / expected - 1) < 0.02
    assert convolution.bias is not None
    assert convolution.bias.eq(0).all()


def test_batch_norm_is_the_identity_and_linear_is_left_alone() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Linear(4, 2))
    before = model[1].weight.clone()
    nn.init.constant_(model[0].weight, 3.0)
    initialise_convolutions(model)
    assert model[0].weight.eq(1).all()
    assert torch.equal(model[1].weight, before)


def test_vgg_head_is_the_authors() -> None:
    """512 - dropout - 512 - relu - dropout - 512 - relu - classes; sixteen weight layers; convolutions with bias."""
    model = VGG16BN(10, width=4)
    assert [type(module).__name__ for module in model.classifier] == [
        "Dropout", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear",
    ]  # fmt: skip
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 16
    assert all(layer.bias is not None for layer in layers)


def test_resnet18_equals_torchvision_but_for_the_stem() -> None:
    """torchvision's ResNet-18 with its stem replaced and our weights, tensor by tensor, gives the same logits."""
    ensure_torchvision()
    from torchvision.models import resnet18

    ours = ResNet18(10).eval()
    theirs = resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.eval()
    values = list(ours.state_dict().values())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_the_stem_of_resnet18_keeps_the_resolution() -> None:
    """3 x 3, stride 1, no pooling: the first stage sees 32 x 32."""
    model = ResNet18(10, width=4)
    shapes: list[torch.Size] = []
    model.blocks[0].register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    model(torch.zeros(1, 3, 32, 32))
    assert shapes == [(1, 4, 32, 32)]


@pytest.mark.parametrize(("depth", "factor", "millions"), [(40, 4, 8.9), (16, 8, 11.0), (22, 8, 17.2), (28, 10, 36.5)])
def test_published_counts_of_wide_resnets(depth: int, factor: int, millions: float) -> None:
    """arXiv 1605.07146, Table 4."""
    assert round(parameters(partial(WideResNet, depth=depth, factor=factor)) / 1e6, 1) == millions


@pytest.mark.parametrize(("depth", "alpha", "expected"), [(164, 270, 27_216_021), (200, 240, 26_752_702)])
def test_known_counts_of_pyramidnets(depth: int, alpha: int, expected: int) -> None:
    """Of the model zoo osmr/imgclsmob (CIFAR-10), which reproduces the paper's errors."""
    assert parameters(partial(PyramidNet, depth=depth, alpha=alpha)) == expected


def test_pyramidnets_shortcut_pools_and_pads_with_zeros() -> None:
    """With the last batch-norm at zero the block is its shortcut."""
    block = PyramidBottleneck(8, 3, stride=2).eval()
    nn.init.zeros_(block.bn4.weight)
    x = torch.randn(2, 8, 6, 6)
    y = block(x)
    torch.testing.assert_close(y[:, :8], nn.functional.avg_pool2d(x, 2))
    assert y[:, 8:].eq(0).all()
    assert y.shape == (2, 12, 3, 3)
