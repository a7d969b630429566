"""Which curvature a divergence induces, and how it is computed on a minibatch: whole or in chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llqr_sam.methods.chunks import ChunkedCurvature, Minibatch
from llqr_sam.methods.curvature import (
    Curvature,
    Differentiate,
    Divergence,
    FisherCurvature,
    HessianCurvature,
    Pusher,
    Reduction,
    double_backward,
    point_of,
)
from llqr_sam.methods.hessian import HessianReplay, LossFunction, ReverseOverReverse
from llqr_sam.methods.inference import differentiable_inference
from llqr_sam.methods.likelihoods import Likelihood
from llqr_sam.methods.replay import Replay


class DivergenceCurvature:
    """The curvature of one network under one divergence, at minibatch after minibatch.

    Args:
        model: Network.
        divergence: "ngd" or "newton".
        reduction: Of the per-sample curvatures under "ngd".
        likelihood: Predictive distribution under "ngd".
        chunk_size: Samples that are linearised at a time; ``None`` is the whole minibatch.
    """

    def __init__(
        self,
        model: nn.Module,
        divergence: Divergence,
        reduction: Reduction,
        likelihood: Likelihood,
        chunk_size: int | None,
    ) -> None:
        self.summed = divergence == "ngd" and reduction == "sum"
        """Whether H is a sum over samples and not a mean."""
        self._model, self._divergence, self._chunk_size = model, divergence, chunk_size
        self._reduction: Reduction = reduction
        self._likelihood = likelihood
        self._replay = Replay()
        self._hessian_replay = HessianReplay()
        self._reverse_over_reverse = ReverseOverReverse()

    def at(self, inputs: Any, targets: Any, loss_fn: LossFunction) -> Curvature:
        """g and H at the model's present parameters on that minibatch."""
        if self._chunk_size is None:
            return self._whole(inputs, targets, loss_fn, self._replay, self._hessian_replay)
        return ChunkedCurvature(
            lambda chunk, part: self._whole(chunk, part, loss_fn, double_backward, self._reverse_over_reverse),
            self._evaluated,
            Minibatch(inputs, targets, loss_fn, self._chunk_size),
            self._likelihood if self._divergence == "ngd" else None,
            summed=self.summed,
        )

    def _evaluated(self, inputs: Any, make: Callable[[Tensor], Any]) -> Any:
        """What ``make`` returns for the outputs, without a graph."""
        with differentiable_inference(self._model), torch.no_grad():
            return make(point_of(self._model, inputs).outputs())

    def _whole(
        self, inputs: Any, targets: Any, loss_fn: LossFunction, pusher: Pusher, differentiate: Differentiate
    ) -> Curvature:
        if self._divergence == "newton":
            return HessianCurvature(self._model, inputs, targets, loss_fn, differentiate)
        return FisherCurvature(self._model, inputs, targets, loss_fn, self._likelihood, self._reduction, pusher)
