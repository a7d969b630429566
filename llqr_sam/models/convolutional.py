"""The convolutional networks of the paper for images of side 32 and 64, and a small one for digits.

Every network takes images ``[B, channels, H, W]`` and returns logits ``[B, classes]``. ``width`` is the number of
channels of the first stage. The residual networks average over all positions before the linear layer.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def initialise_convolutions(model: nn.Module) -> None:
    """Kaiming-normal convolutions (fan-out, bias 0), identity batch-norm, PyTorch's default for linear layers.

    This is torchvision's ResNet recipe (He et al., arXiv 1502.01852). Like module constructors, it draws from the
    global generator.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """3 x 3 without bias, because batch-norm follows or precedes it; keeps the side, or halves it with stride 2."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class _Plain(nn.Module):
    """``features``, flattened, then ``classifier``."""

    features: nn.Module
    classifier: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


class SmallCNN(_Plain):
    """Three conv-bn-relu blocks of w, 2w and 4w channels, 2 x 2 max pooling before the third, and one linear layer.

    It takes 8 x 8 images. The linear layer sees all 4 x 4 positions, because averaging over them costs a point of
    accuracy. With width 16, one channel and 10 classes: 33,658 parameters.
    """

    def __init__(self, classes: int, *, channels: int = 1, width: int = 16) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> list[nn.Module]:
            return [_convolution(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()]

        before, after = [*block(channels, width), *block(width, 2 * width)], block(2 * width, 4 * width)
        self.features = nn.Sequential(*before, nn.MaxPool2d(2), *after)
        self.classifier = nn.Linear(4 * width * 4 * 4, classes)
        initialise_convolutions(self)


class VGG16BN(_Plain):
    """VGG-16 with batch-norm for 32 x 32 images (Simonyan and Zisserman, arXiv 1409.1556).

    Thirteen conv-bn-relu in five stages of w, 2w, 4w, 8w and 8w channels, each ending in 2 x 2 max pooling, then
    dropout-linear-relu twice, linear. As in the LLQR authors' code, convolutions have biases although batch-norm
    follows, and the hidden layers of the head have 8w units instead of 4096. 15.25M parameters for 10 classes.
    """

    def __init__(self, classes: int, *, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for multiple, convolutions in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
            for _ in range(convolutions):
                outputs = multiple * width
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        hidden = [part for _ in range(2) for part in (nn.Dropout(0.5), nn.Linear(inputs, inputs), nn.ReLU())]
        self.classifier = nn.Sequential(*hidden, nn.Linear(inputs, classes))
        initialise_convolutions(self)


class BasicBlock(nn.Module):
    """relu(x + conv-bn-relu-conv-bn(x)); where the shape changes, the shortcut is a 1 x 1 convolution with bn."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` to ``[B, outputs, H / stride, W / stride]``."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(self.shortcut(x) + residual)


class ResNet18(nn.Module):
    """Four stages of two basic blocks, w, 2w, 4w and 8w channels (He et al., arXiv 1512.03385), with the CIFAR stem.

    That stem is one 3 x 3 convolution with stride 1 and no pooling, so that 32 x 32 images keep their resolution until
    the second stage; torchvision has only the ImageNet stem and the published width. With width 64 and 10 classes:
    11,173,962 parameters.
    """

    def __init__(self, classes: int, *, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        blocks = [BasicBlock(width, width, 1), BasicBlock(width, width, 1)]
        for inputs in (width, 2 * width, 4 * width):
            blocks += [BasicBlock(inputs, 2 * inputs, 2), BasicBlock(2 * inputs, 2 * inputs, 1)]
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(8 * width, classes)
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        features = self.blocks(F.relu(self.bn1(self.conv1(images))))
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits


class PreActivationBlock(nn.Module):
    """x + conv-bn-relu-conv of relu(bn(x)); where the shape changes the shortcut convolves the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _convolution(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs)
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
    """Three stages of (depth - 4) / 6 pre-activation blocks with 16k, 32k and 64k channels, without dropout.

    ``depth=28, factor=10`` is the published WRN-28-10 (Zagoruyko and Komodakis, arXiv 1605.07146; 36.5M parameters).
    The LLQR authors' network of that name has five blocks a stage, which is depth 34 (46.16M).

    Args:
        classes: Length of the output.
        depth: Convolutions on the longest path; depth - 4 is a multiple of 6.
        factor: The widening factor k.
        channels: Channels of the images.
    """

    def __init__(self, classes: int, *, depth: int, factor: int, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, 16)
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
        """Images to logits."""
        features = F.relu(self.bn(self.blocks(self.conv1(images))))
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits


class PyramidBottleneck(nn.Module):
    """Padded x plus bn - 1x1 - bn - relu - 3x3 - bn - relu - 1x1 - bn of x; no activation after the sum.

    The shortcut has no parameters: it pools by averages where the side halves and pads new channels with zeros.
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * planes
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = _convolution(planes, planes, stride)
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
    """Three stages of (depth - 2) / 9 bottleneck blocks, each wider than the last (Han et al., arXiv 1610.02915).

    The k-th of n blocks has 16 + alpha k / n channels before its fourfold expansion. Depth 110 and alpha 270 have
    18.32M parameters for 10 classes and 18.43M for 100.

    Args:
        classes: Length of the output.
        depth: Convolutions on the longest path; depth - 2 is a multiple of 9.
        alpha: Channels added from the first block to the last.
        channels: Channels of the images.
    """

    def __init__(self, classes: int, *, depth: int, alpha: int, channels: int = 3) -> None:
        super().__init__()
        per_stage = (depth - 2) // 9
        self.conv1 = _convolution(channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        blocks: list[nn.Module] = []
        inputs = 16
        for index in range(3 * per_stage):
            planes = round(16 + alpha * (index + 1) / (3 * per_stage))
            blocks.append(PyramidBottleneck(inputs, planes, stride=2 if index in (per_stage, 2 * per_stage) else 1))
            inputs = PyramidBottleneck.expansion * planes
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, classes)
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits; there is no ReLU after the stem."""
        features = F.relu(self.bn(self.blocks(self.bn1(self.conv1(images)))))
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits
