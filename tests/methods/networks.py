"""Small real networks that between them have every kind of layer LLQR meets."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualConv(nn.Module):
    """Convolution, batch-norm, GELU, a skip, grouped and depthwise convolution, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.gelu(self.norm(self.stem(x)))
        x = x + torch.relu(self.depthwise(self.grouped(x)))
        return self.head(self.up(x).mean((2, 3)))


class TinyTransformer(nn.Module):
    """Embedding, position embedding, encoder layers with fused attention, one output per token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.position = nn.Parameter(0.1 * torch.randn(1, 6, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(tokens) + self.position))


class Recurrent(nn.Module):
    """An LSTM, whose kernels work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    """MLP, inputs ``[12, 6]``, targets ``[12]``; float64 as all here."""
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 5)).double()
    return net, torch.randn(12, 6, dtype=torch.float64), torch.randint(0, 5, (12,))


def conv() -> tuple[nn.Module, Tensor, Tensor]:
    """Residual convolutional network with used running statistics, inputs ``[6, 2, 4, 4]``."""
    net = ResidualConv().double()
    net(torch.randn(16, 2, 4, 4, dtype=torch.float64))
    return net, torch.randn(6, 2, 4, 4, dtype=torch.float64), torch.randint(0, 5, (6,))


def transformer() -> tuple[nn.Module, Tensor, Tensor]:
    """Transformer, tokens ``[3, 6]``, one target per token."""
    return TinyTransformer().double(), torch.randint(0, 7, (3, 6)), torch.randint(0, 5, (3, 6))


def recurrent() -> tuple[nn.Module, Tensor, Tensor]:
    """LSTM, inputs ``[4, 5, 3]``."""
    return Recurrent().double(), torch.randn(4, 5, 3, dtype=torch.float64), torch.randint(0, 5, (4,))


NETWORKS = {"mlp": mlp, "conv": conv, "transformer": transformer, "recurrent": recurrent}


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over the last axis, mean over samples and tokens, with label smoothing."""
    return torch.nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), label_smoothing=0.1)


class Flagged(nn.Module):
    """A part that a flag cuts off: its values stay, its derivative goes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 5)
        self.frozen = True

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        return self.last(h.detach() if self.frozen else h)
