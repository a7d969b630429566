"""Predictive distributions: what the network's output means, for the natural gradient.

The Fisher matrix of a predictive distribution needs only the distribution's own Fisher matrix at the outputs:
F = J' M J with z = f(theta), J = dz/dtheta, and M block-diagonal over samples (or tokens). A likelihood supplies M.
It is named, never guessed from the loss: label smoothing or a distillation loss leave the distribution as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

OutputFisher = Callable[[Tensor], Tensor]
LikelihoodName = Literal["categorical", "gaussian"]


class Likelihood(Protocol):
    """A predictive distribution per sample or token."""

    def fisher(self, outputs: Tensor, targets: Any) -> tuple[OutputFisher, Tensor]:
        """The map u -> M u at ``outputs``, and how many distributions there are (0-d tensor)."""
        ...


@dataclass(frozen=True)
class Categorical:
    """Softmax over the last axis: M = diag p - p p' (METHODS section 2).

    Args:
        ignore_index: Positions with this integer target (padding) have no distribution: M is 0 there.
    """

    ignore_index: int = -100

    def fisher(self, outputs: Tensor, targets: Any) -> tuple[OutputFisher, Tensor]:
        """See ``Likelihood``. Outputs ``[..., C]`` are logits or log-probabilities."""
        probabilities = torch.softmax(outputs, dim=-1)
        kept = _kept(targets, outputs.shape[:-1], self.ignore_index)
        if kept is None:
            count = torch.tensor(outputs.numel() // outputs.shape[-1], device=outputs.device)
        else:
            count = kept.sum()
            kept = kept.unsqueeze(-1)

        def product(u: Tensor) -> Tensor:
            weighted = probabilities * u
            weighted = weighted - probabilities * weighted.sum(dim=-1, keepdim=True)
            return weighted if kept is None else weighted * kept

        return product, count


@dataclass(frozen=True)
class Gaussian:
    """Unit-variance normal around the output: M = I; a sample is one row of the first axis."""

    def fisher(self, outputs: Tensor, targets: Any) -> tuple[OutputFisher, Tensor]:
        """See ``Likelihood``. Outputs ``[N, ...]``."""
        return (lambda u: u), torch.tensor(outputs.shape[0], device=outputs.device)


def likelihood_of(choice: LikelihoodName | Likelihood) -> Likelihood:
    """The likelihood of that name, or the object itself.

    Raises:
        ValueError: the name is not "categorical" or "gaussian".
    """
    if not isinstance(choice, str):
        return choice
    if choice == "categorical":
        return Categorical()
    if choice == "gaussian":
        return Gaussian()
    raise ValueError(f"likelihood={choice} is not known. Choose from: categorical, gaussian.")


def _kept(targets: Any, shape: torch.Size, ignore_index: int) -> Tensor | None:
    """Mask of the positions that count; ``None`` where targets are not one integer a position."""
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.shape != shape:
        return None
    return targets != ignore_index
