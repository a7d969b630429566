"""Wide ResNets (Zagoruyko and Komodakis, arXiv 1605.07146): pre-activation blocks, sixteen times k channels.

``WideResNet(28, 10)`` is the published WRN-28-10 (36.5M parameters). The LLQR authors' network of that name has five
blocks a stage, which is ``WideResNet(34, 10)`` (46.16M).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.models.initialisation import initialise_convolutions


class PreActivationBlock(nn.Module):
    """x + conv-bn-relu-conv of relu(bn(x)); where the shape changes the shortcut convolves the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` to ``[B, outputs, H / stride, W / stride]``."""
        activated = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(activated)
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return skip + residual


class WideResNet(nn.Module):
    """Three stages of (depth - 4) / 6 blocks with 16k, 32k and 64k channels; no dropout.

    Args:
        classes: Length of the output.
        depth: Convolutions on the longest path; depth - 4 is a multiple of 6.
        factor: The widening factor k.
        channels: Channels of the images.

    Raises:
        ValueError: depth - 4 is not a positive multiple of 6.
    """

    def __init__(self, classes: int, *, depth: int = 28, factor: int = 10, channels: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth={depth} does not fit a wide ResNet: depth - 4 must be a positive multiple of 6.")
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        inputs = 16
        for stage in range(3):
            outputs = 16 * factor * 2**stage
            for index in range((depth - 4) // 6):
                blocks.append(PreActivationBlock(inputs, outputs, stride=2 if stage > 0 and index == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, classes)
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, channels, H, W]`` to logits ``[B, classes]``."""
        features = F.relu(self.bn(self.blocks(self.conv1(images))))
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits
