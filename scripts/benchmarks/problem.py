"""A network and a minibatch of random numbers: only time and memory are measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llqr_sam.engine.devices.device import device_name


class Problem:
    """One network, its minibatch and its loss.

    Args:
        model: The network; moved to ``device``.
        shape: Of the inputs, ``(batch, channels, side, side)``.
        classes: Of the targets.
        device: Where everything is.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int, int, int], classes: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = model.to(device)
        self.device = device
        self.inputs = torch.randn(shape, device=device)
        self.targets = torch.randint(0, classes, shape[:1], device=device)
        self.loss_fn = nn.CrossEntropyLoss()

    @property
    def parameters(self) -> int:
        """How many the network has."""
        return sum(p.numel() for p in self.model.parameters())

    def evaluate(self) -> Tensor:
        """One gradient evaluation, the unit of every ratio: forward and backward."""
        self.model.zero_grad()
        loss: Tensor = self.loss_fn(self.model(self.inputs), self.targets)
        loss.backward()
        return loss

    def sgd(self) -> torch.optim.SGD:
        """The paper's base optimizer, at a rate that changes little."""
        return torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)

    def title(self, name: str) -> str:
        """The network, the batch and the machine, for a heading."""
        return f"{name}, {self.parameters / 1e6:.2f}M parameters, batch {len(self.inputs)}, {machine(self.device)}"


def machine(device: torch.device) -> str:
    """The device, threads and torch, for a heading."""
    return f"{device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}"
