"""A convolutional network small enough to train on two CPU cores: the default for digits."""

from __future__ import annotations

from torch import Tensor, nn

from llqr_sam.models.initialisation import initialise_convolutions


class SmallCNN(nn.Module):
    """Three conv-bn-relu blocks of w, 2w and 4w channels, 2 x 2 max pooling before the third, and one linear layer.

    The linear layer sees all 4 x 4 positions, because averaging over them costs a point of accuracy. With width 16, one
    channel and 10 classes: 33,658 parameters.
    """

    def __init__(self, classes: int, *, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(channels, width),
            *_block(width, 2 * width),
            nn.MaxPool2d(2),
            *_block(2 * width, 4 * width),
        )
        self.classifier = nn.Linear(4 * width * 4 * 4, classes)
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, channels, 8, 8]`` to logits ``[B, classes]``."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
