"""PyramidNet with bottleneck blocks (Han et al., arXiv 1610.02915): the width grows a little with every block.

The k-th of n blocks has 16 + alpha k / n channels before its fourfold expansion. The shortcut has no parameters: it
pools by averages where the side halves and pads new channels with zeros.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.models.initialisation import initialise_convolutions

_EXPANSION = 4


class PyramidBottleneck(nn.Module):
    """Padded x plus bn - 1x1 - bn - relu - 3x3 - bn - relu - 1x1 - bn of x; no activation after the sum."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = _EXPANSION * planes
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.new_channels = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` to ``[B, 4 planes, H / stride, W / stride]``."""
        residual = self.conv1(self.bn1(x))
        residual = self.conv2(F.relu(self.bn2(residual)))
        residual = self.bn4(self.conv3(F.relu(self.bn3(residual))))
        skip = F.avg_pool2d(x, 2) if self.stride == 2 else x
        padded: Tensor = residual + F.pad(skip, (0, 0, 0, 0, 0, self.new_channels))
        return padded


class PyramidNet(nn.Module):
    """Three stages of (depth - 2) / 9 bottleneck blocks.

    Args:
        classes: Length of the output.
        depth: Convolutions on the longest path; depth - 2 is a multiple of 9.
        alpha: Channels added from the first block to the last.
        channels: Channels of the images.

    Raises:
        ValueError: depth - 2 is not a positive multiple of 9.

    Depth 110 and alpha 270 have 18.32M parameters for 10 classes and 18.43M for 100.
    """

    def __init__(self, classes: int, *, depth: int = 110, alpha: int = 270, channels: int = 3) -> None:
        super().__init__()
        if depth < 11 or (depth - 2) % 9:
            raise ValueError(f"depth={depth} does not fit a PyramidNet: depth - 2 must be a positive multiple of 9.")
        per_stage = (depth - 2) // 9
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks: list[nn.Module] = []
        inputs = 16
        for index in range(3 * per_stage):
            planes = round(16 + alpha * (index + 1) / (3 * per_stage))
            blocks.append(PyramidBottleneck(inputs, planes, stride=2 if index in (per_stage, 2 * per_stage) else 1))
            inputs = _EXPANSION * planes
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, classes)
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, channels, H, W]`` to logits ``[B, classes]``; there is no ReLU after the stem."""
        features = F.relu(self.bn(self.blocks(self.bn1(self.conv1(images)))))
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits
