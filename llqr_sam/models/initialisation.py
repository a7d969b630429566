"""Starting weights of the convolutional networks."""

from __future__ import annotations

from torch import nn


def initialise_convolutions(model: nn.Module) -> None:
    """Convolutions Kaiming-normal by fan-out with bias 0, batch-norm the identity, linear layers as PyTorch has them.

    This is torchvision's ResNet recipe (He et al., arXiv 1502.01852). Draws from the global generator, as module
    constructors do.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
