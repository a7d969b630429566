"""Ascent directions v = direction(g): which part of the minibatch gradient SAM climbs along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from llqr_sam.methods.named import Named, float32_if_half, follow


class Direction:
    """The minibatch gradient itself (Foret et al. 2021)."""

    def __call__(self, gradients: Named) -> Named:
        """g, name -> tensor, to v of the same names and shapes."""
        return gradients

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``."""


class _Averaging(Direction):
    """A direction that keeps an average of gradients, in float32 where they are in half precision."""

    def __init__(self) -> None:
        self.average: Named = {}

    def _start(self, gradients: Named) -> None:
        """m = g for each parameter whose first gradient this is, whenever that comes."""
        for name, g in gradients.items():
            if name not in self.average:
                self.average[name] = g.clone()

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {"average": dict(self.average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self.average = {name: t.clone() for name, t in state["average"].items()}


class Friendly(_Averaging):
    """F-SAM (Li et al. 2024): v = g - sigma m, then m = decay m + (1 - decay) g; a first gradient: m = g, v = g.

    Args:
        decay: lambda, the average's memory.
        sigma: Share of the average that is taken away.

    The authors of LLQR+SAM start from m = 0 instead; load an average of zeros for that.

    Raises:
        ValueError: decay is outside [0, 1).
    """

    def __init__(self, decay: float = 0.6, sigma: float = 1.0) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be in [0, 1).")
        self.decay, self.sigma = decay, sigma

    def __call__(self, gradients: Named) -> Named:
        """See the class."""
        gradients = float32_if_half(gradients)
        follow(self.average, gradients)
        known = {name: g for name, g in gradients.items() if name in self.average}
        self._start(gradients)
        if not known:
            return gradients
        g, m = list(known.values()), [self.average[name] for name in known]
        v = torch._foreach_sub(g, m, alpha=self.sigma)
        torch._foreach_lerp_(m, g, 1 - self.decay)
        return {**gradients, **dict(zip(known, v, strict=True))}


class VarianceSuppressed(_Averaging):
    """VaSSO (Li and Giannakis 2023): m = (1 - theta) m + theta g, v = m; a first gradient: m = g.

    Args:
        theta: Weight of the new gradient.

    Raises:
        ValueError: theta is outside (0, 1].
    """

    def __init__(self, theta: float = 0.9) -> None:
        super().__init__()
        if not 0 < theta <= 1:
            raise ValueError(f"theta={theta} must be in (0, 1].")
        self.theta = theta

    def __call__(self, gradients: Named) -> Named:
        """See the class."""
        gradients = float32_if_half(gradients)
        follow(self.average, gradients)
        self._start(gradients)
        m = [self.average[name] for name in gradients]
        torch._foreach_lerp_(m, list(gradients.values()), self.theta)
        return dict(zip(gradients, m, strict=True))
