"""Heavy-ball gradient descent on U's factors, each clipped to a norm (LLQR paper, Algorithm 2, inner loop)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeavyBall:
    """One inner step is G <- G * clip / max(clip, |G|); buf <- G + momentum * buf; U <- U - lr * buf.

    Args:
        lr: Inner learning rate, alpha.
        momentum: Heavy-ball coefficient.
        clip_norm: L2 norm to which each factor's gradient is clipped.
    """

    lr: float = 1e-3
    momentum: float = 0.9
    clip_norm: float = 5.0

    def clip(self, squared_norm: Tensor) -> Tensor:
        """Factor in (0, 1] that clips a gradient of that squared norm; any shape, elementwise."""
        return self.clip_norm / squared_norm.clamp_min(0).sqrt().clamp_min(self.clip_norm)

    def step(self, factor: Tensor, buffer: Tensor, gradient: Tensor) -> None:
        """One inner step in place on a stack of factors, ``[K, ...]``, each clipped by itself."""
        squared_norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1).square()
        clip = self.clip(squared_norm).view(-1, *[1] * (gradient.ndim - 1))
        self.move(factor, buffer.mul_(self.momentum).addcmul_(gradient, clip))

    def move(self, factor: Tensor, buffer: Tensor) -> None:
        """U <- U - lr * buf, in place."""
        factor.add_(buffer, alpha=-self.lr)
