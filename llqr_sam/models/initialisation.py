"""Initial weights of the convolutional networks."""

from __future__ import annotations

from torch import nn


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
