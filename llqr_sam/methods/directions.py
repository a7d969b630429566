"""Ascent directions v = direction(g): which part of the minibatch gradient a sharpness-aware step climbs along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from llqr_sam.methods.named import Named, float32_if_half, follow
from llqr_sam.methods.settings import FriendlySettings, VarianceSuppressedSettings


class Direction:
    """The minibatch gradient itself (SAM; Foret et al., arXiv 2010.01412), and the base of all directions.

    A direction of your own overrides ``__call__``, and the two ``state_dict`` methods if it keeps a state.

    Example:
        >>> import torch
        >>> Direction()({"weight": torch.tensor([1.0, 2.0])})
        {'weight': tensor([1., 2.])}
    """

    def __call__(self, gradients: Named) -> Named:
        """Returns the direction of this step; called once for each step that perturbs.

        Args:
            gradients: g, name -> tensor shaped like the parameter.

        Returns:
            v, of the same names and shapes; float32 where a direction averages gradients in half precision.
        """
        return gradients

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs: nothing, or ``{"average": name -> tensor}`` of a direction with one."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state.

        Args:
            state: What ``state_dict`` returned.
        """


class _Averaging(Direction):
    """A direction that keeps an average m of gradients, in float32 where they are in half precision."""

    average: Named

    def state_dict(self) -> dict[str, Any]:
        return {"average": dict(self.average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.average = {name: t.clone() for name, t in state["average"].items()}


class Friendly(_Averaging):
    """F-SAM (Li et al., arXiv 2403.12350): v = g - sigma m, then m = decay m + (1 - decay) g.

    A parameter's first gradient gives m = g and v = g. The authors of LLQR+SAM start from m = 0 instead; load an
    average of zeros for that.

    Args:
        decay: lambda, the weight of the old average, in [0, 1).
        sigma: Share of the average that is taken away, >= 0.

    Raises:
        ValueError: decay or sigma is out of its range.

    Example:
        >>> import torch
        >>> friendly = Friendly(decay=0.6)
        >>> friendly({"weight": torch.tensor([1.0, 2.0])})
        {'weight': tensor([1., 2.])}
        >>> friendly({"weight": torch.tensor([1.0, 3.0])})
        {'weight': tensor([0., 1.])}
    """

    def __init__(self, decay: float = 0.6, sigma: float = 1.0) -> None:
        FriendlySettings(sigma, decay)  # checks them
        self.decay, self.sigma, self.average = decay, sigma, {}

    def __call__(self, gradients: Named) -> Named:
        gradients = float32_if_half(gradients)
        known = follow(self.average, gradients)
        if not known:
            return gradients
        g, m = list(known.values()), [self.average[name] for name in known]
        v = torch._foreach_sub(g, m, alpha=self.sigma)
        torch._foreach_lerp_(m, g, 1 - self.decay)
        return {**gradients, **dict(zip(known, v, strict=True))}


class VarianceSuppressed(_Averaging):
    """VaSSO (Li and Giannakis, arXiv 2309.15639): v = m = (1 - theta) m + theta g.

    A parameter's first gradient gives m = g.

    Args:
        theta: Weight of the new gradient, in (0, 1].

    Raises:
        ValueError: theta is out of its range.

    Example:
        >>> import torch
        >>> vasso = VarianceSuppressed(theta=0.5)
        >>> _ = vasso({"weight": torch.tensor([1.0, 2.0])})
        >>> vasso({"weight": torch.tensor([3.0, 2.0])})
        {'weight': tensor([2., 2.])}
    """

    def __init__(self, theta: float = 0.9) -> None:
        VarianceSuppressedSettings(theta)  # checks it
        self.theta, self.average = theta, {}

    def __call__(self, gradients: Named) -> Named:
        gradients = float32_if_half(gradients)
        follow(self.average, gradients)
        m = [self.average[name] for name in gradients]
        torch._foreach_lerp_(m, list(gradients.values()), self.theta)
        return dict(zip(gradients, m, strict=True))
