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
LikelihoodName = Literal["categorical", "gaussian", "bernoulli"]


class Likelihood(Protocol):
    """A predictive distribution per sample or token."""

    def fisher(self, outputs: Tensor, targets: Any) -> tuple[OutputFisher, Tensor]:
        """The map u -> M u at ``outputs``, and how many distributions there are (0-d tensor)."""
        ...


@dataclass(frozen=True)
class Categorical:
    """Softmax over the classes: M = diag p - p p' (METHODS section 2).

    Args:
        ignore_index: Positions with this integer target (padding) have no distribution: M is 0 there.
        axis: Of the outputs, along which the classes lie: the last, or 1 in torch's layout of images, ``[N, C, H, W]``.
    """

    ignore_index: int = -100
    axis: int = -1

    def fisher(self, outputs: Tensor, targets: Any) -> tuple[OutputFisher, Tensor]:
        """See ``Likelihood``. Outputs ``[..., C]``, or with C at ``axis``, are logits or log-probabilities.

        Raises:
            ValueError: there is one class only, or the targets say that the classes lie on another axis.
        """
        self._require_classes(outputs, targets)
        probabilities = torch.softmax(outputs, dim=self.axis)
        kept = None
        count = torch.tensor(outputs.numel() // outputs.shape[self.axis], device=outputs.device)
        if _names_classes(targets, outputs.shape, self.axis):
            kept = targets != self.ignore_index
            count, kept = kept.sum(), kept.unsqueeze(self.axis)

        def product(u: Tensor) -> Tensor:
            weighted = probabilities * u
            weighted = weighted - probabilities * weighted.sum(dim=self.axis, keepdim=True)
            return weighted if kept is None else weighted * kept

        return product, count

    def _require_classes(self, outputs: Tensor, targets: Any) -> None:
        if outputs.ndim < 2 or outputs.shape[self.axis] == 1:
            raise ValueError(
                f"outputs {list(outputs.shape)} have no classes to choose from, as likelihood=categorical needs. "
                'Choose likelihood="bernoulli" for yes-or-no logits, "gaussian" for a regression.'
            )
        named = [axis for axis in range(1, outputs.ndim) if _names_classes(targets, outputs.shape, axis)]
        if named and self.axis % outputs.ndim not in named:
            raise ValueError(
                f"targets {list(targets.shape)} put the classes of outputs {list(outputs.shape)} on axis {named[0]}, "
                f"and the likelihood on axis {self.axis}. Choose likelihood=Categorical(axis={named[0]})."
            )


@dataclass(frozen=True)
class Bernoulli:
    """A yes or no for each output, a logit: M = diag p (1 - p); a sample is one row of the first axis."""

    def fisher(self, outputs: Tensor, targets: Any) -> tuple[OutputFisher, Tensor]:
        """See ``Likelihood``. Outputs ``[N, ...]``."""
        probabilities = torch.sigmoid(outputs)
        variances = probabilities * (1 - probabilities)
        return (lambda u: variances * u), torch.tensor(outputs.shape[0], device=outputs.device)


@dataclass(frozen=True)
class Gaussian:
    """Unit-variance normal around the output: M = I; a sample is one row of the first axis."""

    def fisher(self, outputs: Tensor, targets: Any) -> tuple[OutputFisher, Tensor]:
        """See ``Likelihood``. Outputs ``[N, ...]``."""
        return (lambda u: u), torch.tensor(outputs.shape[0], device=outputs.device)


def likelihood_of(choice: LikelihoodName | Likelihood) -> Likelihood:
    """The likelihood of that name, or the object itself.

    Raises:
        ValueError: there is none of that name.
    """
    if not isinstance(choice, str):
        return choice
    if choice not in _NAMED:
        raise ValueError(f"likelihood={choice} is not known. Choose from: {', '.join(_NAMED)}.")
    return _NAMED[choice]


_NAMED: dict[str, Likelihood] = {"categorical": Categorical(), "gaussian": Gaussian(), "bernoulli": Bernoulli()}


def _names_classes(targets: Any, shape: torch.Size, axis: int) -> bool:
    """Whether targets are one integer for each position of outputs of that shape, the classes on that axis."""
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return False
    axis %= len(shape)
    return targets.shape == shape[:axis] + shape[axis + 1 :]
