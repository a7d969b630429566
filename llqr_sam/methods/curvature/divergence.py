"""Which curvature a divergence induces, and how it is computed on a minibatch: whole or in chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llqr_sam.methods.curvature.chunks import ChunkedCurvature, Minibatch
from llqr_sam.methods.curvature.forward_trace import Replaying
from llqr_sam.methods.curvature.hessian import HessianReplay, ReverseOverReverse
from llqr_sam.methods.curvature.inference import differentiable_inference
from llqr_sam.methods.curvature.jacobian import DoubleBackward, JacobianReplay
from llqr_sam.methods.curvature.likelihoods import Likelihood
from llqr_sam.methods.curvature.point import LossFunction, point_of
from llqr_sam.methods.curvature.precision import WHOLE, Precision
from llqr_sam.methods.curvature.products import (
    Curvature,
    Divergence,
    FisherCurvature,
    HessianCurvature,
    Reduction,
)


class DivergenceCurvature:
    """The curvature of one network under one divergence, at minibatch after minibatch.

    Args:
        model: Network.
        divergence: "ngd" or "newton".
        reduction: Of the per-sample curvatures under "ngd".
        likelihood: Predictive distribution under "ngd".
        chunk_size: Samples that are linearised at a time; ``None`` is the whole minibatch.
        precision: That of the linearisation.
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
        self._model, self._divergence, self._chunk_size = model, divergence, chunk_size
        self._reduction: Reduction = reduction
        self._likelihood, self._precision = likelihood, precision
        whole = chunk_size is None
        self._linearize = JacobianReplay() if whole else DoubleBackward()
        self._differentiate = HessianReplay() if whole else ReverseOverReverse()

    @property
    def refusal(self) -> str:
        """Why the latest products do not come from a replayed trace; empty where they do."""
        used = self._differentiate if self._divergence == "newton" else self._linearize
        return used.refusal if isinstance(used, Replaying) else "chunk_size is given"

    def at(self, inputs: Any, targets: Any, loss_fn: LossFunction) -> Curvature:
        """g and H at the model's present parameters on that minibatch."""
        if self._chunk_size is None:
            return self._whole(inputs, targets, loss_fn)
        return ChunkedCurvature(
            lambda chunk, part: self._whole(chunk, part, loss_fn),
            self._evaluated,
            Minibatch(inputs, targets, loss_fn, self._chunk_size),
            self._likelihood if self._divergence == "ngd" else None,
            summed=self.summed,
            eps=self._precision.eps,
        )

    def _evaluated(self, inputs: Any, make: Callable[[Tensor], Any]) -> Any:
        """What ``make`` returns for the outputs, without a graph."""
        point = point_of(self._model, inputs, self._precision)
        with differentiable_inference(self._model), torch.no_grad(), self._precision.products(point.device):
            return point.evaluated(make)

    def _whole(self, inputs: Any, targets: Any, loss_fn: LossFunction) -> Curvature:
        if self._divergence == "newton":
            return HessianCurvature(self._model, inputs, targets, loss_fn, self._differentiate, self._precision)
        return FisherCurvature(
            self._model, inputs, targets, loss_fn, self._likelihood, self._reduction, self._linearize, self._precision
        )
