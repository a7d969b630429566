"""The curvature that a divergence induces on a minibatch, whole or in chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llqr_sam.methods.curvature.chunks import ChunkedCurvature
from llqr_sam.methods.curvature.derivatives import Hessian, Jacobian
from llqr_sam.methods.curvature.inference import differentiable_inference
from llqr_sam.methods.curvature.likelihoods import Likelihood
from llqr_sam.methods.curvature.point import LossFunction, point_of
from llqr_sam.methods.curvature.precision import WHOLE, Precision
from llqr_sam.methods.curvature.products import Curvature, Divergence, FisherCurvature, HessianCurvature, Reduction


class DivergenceCurvature:
    """The curvature of one network under one divergence, at minibatch after minibatch.

    Arguments are those of ``LLQR``; ``likelihood`` and ``reduction`` matter under "ngd" only.
    """

    def __init__(
        self,
        model: nn.Module,
        divergence: Divergence,
        reduction: Reduction,
        likelihood: Likelihood,
        chunk_size: int | None,
        precision: Precision = WHOLE,
    ) -> None:
        self.summed = divergence == "ngd" and reduction == "sum"
        """Whether H is a sum over samples and not a mean."""
        self._model, self._chunk_size = model, chunk_size
        self._reduction: Reduction = reduction
        self._likelihood, self._precision = likelihood, precision
        untraced = "" if chunk_size is None else "chunk_size is given"
        self._derivative = Hessian(untraced) if divergence == "newton" else Jacobian(untraced)

    @property
    def refusal(self) -> str:
        """Why the latest products do not come from a replayed trace; empty where they do."""
        return self._derivative.cache.refusal

    def at(self, inputs: Any, targets: Any, loss_fn: LossFunction) -> Curvature:
        """g and H at the model's present parameters on that minibatch."""
        if self._chunk_size is None:
            return self._whole(inputs, targets, loss_fn)
        return ChunkedCurvature(
            lambda chunk, of_chunk: self._whole(chunk, of_chunk, loss_fn),
            self._evaluated,
            (inputs, targets, loss_fn),
            self._chunk_size,
            None if isinstance(self._derivative, Hessian) else self._likelihood,
            summed=self.summed,
            eps=self._precision.eps,
        )

    def _evaluated(self, inputs: Any, make: Callable[[Tensor], Any]) -> Any:
        """Returns ``make(outputs)``, without a graph."""
        point = point_of(self._model, inputs, self._precision)
        with differentiable_inference(self._model), torch.no_grad(), self._precision.products(point.device):
            return point.evaluated(make)

    def _whole(self, inputs: Any, targets: Any, loss_fn: LossFunction) -> Curvature:
        minibatch = self._model, inputs, targets, loss_fn
        if isinstance(self._derivative, Hessian):
            return HessianCurvature(*minibatch, self._derivative, self._precision)
        return FisherCurvature(*minibatch, self._likelihood, self._reduction, self._derivative, self._precision)
