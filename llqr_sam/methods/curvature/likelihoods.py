"""Predictive distributions: what the network's output means, for the natural gradient.

A likelihood supplies M of the Fisher matrix J' M J: the distribution's own Fisher matrix at the outputs, block-diagonal
over samples (or tokens). It is never guessed from the loss: label smoothing leaves the distribution as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from llqr_sam.methods.curvature.point import tensors

OutputFisher = Callable[[Tensor], Tensor]
Mask = Callable[[Tensor, Any], Tensor]
LikelihoodName = Literal["categorical", "gaussian", "bernoulli"]


class Likelihood(Protocol):
    """A predictive distribution per sample or token; any object with this method will do."""

    def fisher(self, outputs: Tensor, targets: Any) -> tuple[OutputFisher, Tensor]:
        """Returns the map u -> M u at ``outputs``, and how many distributions there are (0-d tensor)."""
        ...


@dataclass(frozen=True)
class Categorical:
    """Softmax over the classes: M = diag p - p p' for each position (docs/methods.md, section 2.2).

    Args:
        ignore_index: Positions with this integer target (padding) have no distribution: M is 0 there. The targets are
            one integer tensor with an entry for each position of the outputs, flattened or not, alone or as the only
            such tensor in a tuple or mapping. Where there is none, every position counts.
        axis: Axis of the outputs along which the classes lie: the last, or 1 for images, ``[N, C, H, W]``.
        mask: ``mask(outputs, targets)``, bool, True where a position has a distribution; its shape is that of the
            outputs without the axis of the classes, or flattened. It replaces ``ignore_index``.

    Example:
        >>> outputs = torch.zeros(3, 4)  # of three positions, two with a word to predict
        >>> _, count = Categorical(ignore_index=0).fisher(outputs, torch.tensor([1, 2, 0]))
        >>> int(count)
        2
        >>> likelihood = Categorical(mask=lambda outputs, targets: targets["weights"] > 0)
        >>> _, count = likelihood.fisher(outputs, {"labels": torch.tensor([1, 2, 0]), "weights": torch.ones(3)})
        >>> int(count)
        3
    """

    ignore_index: int = -100
    axis: int = -1
    mask: Mask | None = None

    def fisher(self, outputs: Tensor, targets: Any) -> tuple[OutputFisher, Tensor]:
        """The Fisher matrix of the softmax at each position.

        Args:
            outputs: Logits or log-probabilities, floating point, ``[..., C]``, or with C at ``axis``.
            targets: Whatever the loss takes.

        Returns:
            The map u -> M u for u shaped like the outputs, and the number of positions that count, a 0-d integer
            tensor.

        Raises:
            ValueError: there is one class only, the targets say that the classes lie on another axis, or the mask is
                not bool or of another shape.
        """
        self._require_classes(outputs, targets)
        kept = counted(self, outputs, targets)
        probabilities, kept_classes = torch.softmax(outputs, dim=self.axis), kept.unsqueeze(self.axis)

        def product(u: Tensor) -> Tensor:
            weighted = probabilities * u
            return (weighted - probabilities * weighted.sum(dim=self.axis, keepdim=True)) * kept_classes

        return product, kept.sum()

    def _require_classes(self, outputs: Tensor, targets: Any) -> None:
        if outputs.ndim < 2 or outputs.shape[self.axis] == 1:
            raise ValueError(
                f"outputs {list(outputs.shape)} have no classes to choose from, as likelihood=categorical needs. "
                'Choose likelihood="bernoulli" for yes-or-no logits, "gaussian" for a regression.'
            )
        if not (isinstance(targets, Tensor) and _integer(targets)):
            return
        fitting = [axis for axis in range(1, outputs.ndim) if targets.shape == _positions(outputs, axis)]
        if fitting and self.axis % outputs.ndim not in fitting:
            raise ValueError(
                f"targets {list(targets.shape)} put the classes of outputs {list(outputs.shape)} on axis {fitting[0]}, "
                f"and the likelihood on axis {self.axis}. Choose likelihood=Categorical(axis={fitting[0]})."
            )


@dataclass(frozen=True)
class _Elementwise:
    """A distribution for each output, independent of the others; a sample is one row of the first axis."""

    mask: Mask | None = None

    def fisher(self, outputs: Tensor, targets: Any) -> tuple[OutputFisher, Tensor]:
        """The Fisher matrix at the outputs, which is diagonal; 0 for outputs that the mask leaves out.

        Args:
            outputs: Logits (``Bernoulli``) or means (``Gaussian``), floating point, ``[N, ...]``.
            targets: Whatever the loss takes; only the mask reads them.

        Returns:
            The map u -> M u for u shaped like the outputs, and the number of samples with an output that counts, a 0-d
            integer tensor.

        Raises:
            ValueError: the mask is not bool or of another shape.
        """
        kept = counted(self, outputs, targets)
        diagonal = self._diagonal(outputs) * kept
        return (lambda u: diagonal * u), (kept.flatten(1).any(1) if kept.ndim > 1 else kept).sum()

    def _diagonal(self, outputs: Tensor) -> Tensor:
        """The diagonal of M without the mask."""
        raise NotImplementedError


@dataclass(frozen=True)
class Bernoulli(_Elementwise):
    """A yes or no for each output, a logit: M = diag p (1 - p), p = sigmoid(z) (docs/methods.md, section 2.2).

    Args:
        mask: ``mask(outputs, targets)``, bool, shaped like the outputs, True where an output counts. A row without any
            is no sample. Default: all outputs count.

    Example:
        >>> likelihood = Bernoulli(mask=lambda outputs, targets: targets >= 0)  # -1: not labelled
        >>> product, count = likelihood.fisher(torch.zeros(2, 2), torch.tensor([[1, 0], [-1, -1]]))
        >>> product(torch.ones(2, 2)).tolist(), int(count)
        ([[0.25, 0.25], [0.0, 0.0]], 1)
    """

    def _diagonal(self, outputs: Tensor) -> Tensor:
        probabilities = torch.sigmoid(outputs)
        return probabilities * (1 - probabilities)


@dataclass(frozen=True)
class Gaussian(_Elementwise):
    """A normal distribution of unit variance around each output: M = I (docs/methods.md, section 2.2).

    Args:
        mask: ``mask(outputs, targets)``, bool, shaped like the outputs, True where an output counts. A row without any
            is no sample. Default: all outputs count.

    Example:
        >>> likelihood = Gaussian(mask=lambda outputs, targets: ~targets.isnan())
        >>> product, count = likelihood.fisher(torch.zeros(2, 1), torch.tensor([[0.5], [torch.nan]]))
        >>> product(torch.ones(2, 1)).tolist(), int(count)
        ([[1.0], [0.0]], 1)
    """

    def _diagonal(self, outputs: Tensor) -> Tensor:
        return torch.ones_like(outputs)


NAMED: dict[str, Likelihood] = {"categorical": Categorical(), "gaussian": Gaussian(), "bernoulli": Bernoulli()}
"""Likelihoods by name, with their defaults."""


def likelihood_of(choice: LikelihoodName | Likelihood) -> Likelihood:
    """The likelihood of that name, or the object itself; ValueError where there is none of that name."""
    if not isinstance(choice, str):
        return choice
    if choice not in NAMED:
        raise ValueError(f"likelihood={choice} is not known. Choose from: {', '.join(NAMED)}.")
    return NAMED[choice]


def counted(likelihood: Categorical | _Elementwise, outputs: Tensor, targets: Any) -> Tensor:
    """Which distributions count, bool, shaped like the outputs, for ``Categorical`` without the axis of the classes."""
    shape = _positions(outputs, likelihood.axis) if isinstance(likelihood, Categorical) else outputs.shape
    if likelihood.mask is not None:
        mask = likelihood.mask(outputs, targets)
        laid_out = _laid_out(mask, shape)
        if laid_out is None or mask.dtype != torch.bool:
            raise ValueError(
                f"the likelihood's mask is {mask.dtype} {list(mask.shape)}; it must be torch.bool {list(shape)}, an "
                "entry for each distribution."
            )
        return laid_out
    if isinstance(likelihood, Categorical):
        integers = [t for tensor in tensors(targets) if (t := _laid_out(tensor, shape)) is not None and _integer(t)]
        if len(integers) == 1:
            return integers[0] != likelihood.ignore_index
    return torch.ones(shape, dtype=torch.bool, device=outputs.device)


def _positions(outputs: Tensor, axis: int) -> torch.Size:
    """The outputs' shape without the axis of the classes."""
    axis %= outputs.ndim
    return outputs.shape[:axis] + outputs.shape[axis + 1 :]


def _laid_out(tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """Returns the tensor in that shape if it has it or one of the two is flat; other reshapes could mix positions."""
    flat = tensor.ndim == 1 or len(shape) == 1
    return tensor.reshape(shape) if tensor.shape == shape or (flat and tensor.numel() == shape.numel()) else None


def _integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
