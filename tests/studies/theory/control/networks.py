"""Small chains, float64: every kind of stage the layerwise problem is checked on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

F64 = torch.float64


class Residual(nn.Module):
    """x + inner(x), one stage."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Beside(nn.Module):
    """Keeps a copy of its input beside inner(x): the state [x, inner(x)] that carries a skip through a chain."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], dim=1)


class SecondHalf(nn.Module):
    """[x, h] -> [x, inner(h)]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, state: Tensor) -> Tensor:
        x, h = state.chunk(2, dim=1)
        return torch.cat([x, self.inner(h)], dim=1)


class AddHalves(nn.Module):
    """[x, h] -> x + h."""

    def forward(self, state: Tensor) -> Tensor:
        x, h = state.chunk(2, dim=1)
        return x + h


def relu() -> tuple[nn.Sequential, Tensor, Tensor]:
    """ReLU network on vectors, one stage per layer, some without parameters."""
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    return net, torch.randn(7, 5, dtype=F64), torch.randint(0, 4, (7,))


def gelu() -> tuple[nn.Sequential, Tensor, Tensor]:
    """GELU network whose stages are whole layers, so that Q, R and M all have something in them; a residual block."""
    net = nn.Sequential(
        nn.Sequential(nn.Linear(5, 6), nn.GELU()),
        Residual(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 6), nn.Tanh()),
        nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4)),
    ).double()
    return net, torch.randn(6, 5, dtype=F64), torch.randint(0, 4, (6,))


def conv() -> tuple[nn.Sequential, Tensor, Tensor]:
    """Convolutions, batch-norm with used running statistics, a residual convolution block, pooling."""
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.GELU(),
        Residual(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1)),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 4),
    ).double()
    net(torch.randn(16, 2, 4, 4, dtype=F64))
    return net, torch.randn(3, 2, 4, 4, dtype=F64), torch.randint(0, 4, (3,))


def attention() -> tuple[nn.Sequential, Tensor, Tensor]:
    """Tokens, an encoder layer with fused attention weights, one output and one target per token."""
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True)
    net = nn.Sequential(nn.Embedding(5, 4), layer, nn.Linear(4, 3)).double()
    return net, torch.randint(0, 5, (2, 3)), torch.randint(0, 3, (2, 3))


CHAINS = {"relu": relu, "gelu": gelu, "conv": conv, "attention": attention}


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over the last axis, mean over samples and tokens, with label smoothing."""
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), label_smoothing=0.1)


def randomised(factors: dict[str, dict[str, Tensor]], spread: float = 0.5) -> None:
    """Moves every entry of U's factors by up to ``spread`` from the identity, in place; diagonals stay positive."""
    for own in factors.values():
        for factor in own.values():
            factor.add_(spread * (2 * torch.rand_like(factor) - 1))
