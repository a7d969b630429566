"""ResNet-18 with the CIFAR stem, and torchvision's ResNet-50 for 224 x 224 images.

The CIFAR stem is one 3 x 3 convolution with stride 1 and no pooling, so that 32 x 32 images keep their resolution
until the second stage. torchvision offers only the ImageNet stem and the published width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.models.initialisation import initialise_convolutions
from llqr_sam.torchvision_compat import ensure_torchvision


class BasicBlock(nn.Module):
    """relu(x + conv-bn-relu-conv-bn(x)); where the shape changes, the shortcut is a 1 x 1 convolution with bn."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` to ``[B, outputs, H / stride, W / stride]``."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(self.shortcut(x) + residual)


class ResNet18(nn.Module):
    """Four stages of two basic blocks, w, 2w, 4w and 8w channels (He et al., arXiv 1512.03385).

    With width 64 and 10 classes: 11,173,962 parameters. Any image side of at least 8 works.
    """

    def __init__(self, classes: int, *, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(4):
            outputs = width * 2**stage
            blocks += [BasicBlock(inputs, outputs, stride=1 if stage == 0 else 2), BasicBlock(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, classes)
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, channels, H, W]`` to logits ``[B, classes]``."""
        features = self.blocks(F.relu(self.bn1(self.conv1(images))))
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits


def resnet50(classes: int, *, channels: int = 3) -> nn.Module:
    """torchvision's ResNet-50 without pretrained weights: 25,557,032 parameters for 1000 classes.

    Its activations are made out-of-place, because curvature products need double backward and forward mode.
    """
    ensure_torchvision()
    from torchvision.models import resnet50 as torchvision_resnet50

    model: nn.Module = torchvision_resnet50(weights=None, num_classes=classes)
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        initialise_convolutions(model.conv1)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model
