"""VGG-16 with batch-norm and a small head, for 32 x 32 images (Simonyan and Zisserman, arXiv 1409.1556).

As in the LLQR authors' code, convolutions have biases although batch-norm follows, and the two hidden layers of the
head have 512 units instead of 4096. 15.25M parameters for 10 classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from llqr_sam.models.initialisation import initialise_convolutions

_STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # (channels as a multiple of the width, convolutions)


class VGG16BN(nn.Module):
    """Thirteen conv-bn-relu in five stages, each ending in 2 x 2 max pooling, then dropout-linear-relu twice, linear.

    Args:
        classes: Length of the output.
        channels: Channels of the images.
        width: Channels w of the first stage; the others have 2w, 4w, 8w, 8w and the head's hidden layers 8w.
    """

    def __init__(self, classes: int, *, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for multiple, convolutions in _STAGES:
            for _ in range(convolutions):
                outputs = multiple * width
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(inputs, inputs),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(inputs, inputs),
            nn.ReLU(),
            nn.Linear(inputs, classes),
        )
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, channels, 32, 32]`` to logits ``[B, classes]``."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits
