"""ResNet-18 with the CIFAR stem, and torchvision's ResNet-50."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llqr_sam.models.resnet import ResNet18, resnet50
from llqr_sam.torchvision_compat import ensure_torchvision


def test_curvature_products(check_curvature_products: Callable[[nn.Module, Tensor], None]) -> None:
    torch.manual_seed(0)
    model = ResNet18(10, width=4).double()
    check_curvature_products(model, torch.randn(2, 3, 32, 32, dtype=torch.float64))


def test_curvature_products_resnet50(check_curvature_products: Callable[[nn.Module, Tensor], None]) -> None:
    """Of torchvision's residual block, whose sum is in place, at its full width but one block a stage."""
    ensure_torchvision()
    from torchvision.models.resnet import Bottleneck

    torch.manual_seed(0)
    block = Bottleneck(16, 4)
    block.relu.inplace = False
    model = nn.Sequential(nn.Conv2d(3, 16, 3), block, nn.Flatten(), nn.LazyLinear(5)).double()
    model(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    check_curvature_products(model, torch.randn(2, 3, 8, 8, dtype=torch.float64))


def test_equals_torchvision_but_for_the_stem() -> None:
    """torchvision's ResNet-18 with its stem replaced and our weights, tensor by tensor, gives the same logits."""
    ensure_torchvision()
    from torchvision.models import resnet18

    torch.manual_seed(0)
    ours = ResNet18(10).eval()
    theirs = resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.eval()
    values = list(ours.state_dict().values())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_stem_keeps_the_resolution() -> None:
    """3 x 3, stride 1, no pooling: the first stage sees 32 x 32."""
    model = ResNet18(10, width=4)
    shapes: list[torch.Size] = []
    model.blocks[0].register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    model(torch.zeros(1, 3, 32, 32))
    assert shapes == [(1, 4, 32, 32)]


def test_resnet50_takes_other_channels() -> None:
    with torch.device("meta"):
        assert resnet50(10, channels=1)(torch.empty(1, 1, 64, 64)).shape == (1, 10)
