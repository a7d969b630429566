"""Curvature-vector products at a fixed point.

A refresh needs H v for fifty v at one theta, so what depends on theta alone is computed once.

Notation: z = f(theta) are the outputs, ``[N, C]`` (N samples or tokens, C classes); v and H v are name -> tensor
with the shapes of the parameters; J = dz/dtheta; M is the Fisher matrix of the predictive distribution at z.

    NGD     H v = s J' M J v     s = 1 (sum, the authors' code) or 1/N (mean); M = diag p - p p' for a softmax
    Newton  H v = d2 l v         l the mean loss

Batch-norm is in inference mode, dropout is off, and attention uses its plain kernel, since the fused ones have neither
a forward-mode nor a second derivative (docs/methods.md, section 2.2). A network in half precision is linearised in
float32, or under autocast where ``precision`` says so; loss, likelihood and M are float32 either way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import nn

from llqr_sam.methods.curvature.derivatives import Jacobian, Push, pull, reverse_over_reverse
from llqr_sam.methods.curvature.diagnosis import explained
from llqr_sam.methods.curvature.inference import differentiable_inference
from llqr_sam.methods.curvature.likelihoods import Likelihood
from llqr_sam.methods.curvature.point import LossFunction, Point, point_of
from llqr_sam.methods.curvature.precision import WHOLE, Precision
from llqr_sam.methods.named import Named

Divergence = Literal["ngd", "newton"]
Reduction = Literal["sum", "mean"]


class Curvature(Protocol):
    """The loss to second order at one point."""

    gradient: Named
    """g, the gradient of the mean loss."""

    def product(self, v: Named) -> Named:
        """H v, shaped like v."""
        ...


class FisherCurvature:
    """H = s J' M J, the Fisher matrix of the predictive distribution (natural gradient).

    Args:
        model, inputs, targets, loss_fn: As for ``LLQR.refresh``; trainable parameters are the coordinates.
        likelihood: Predictive distribution.
        reduction: "sum" over samples (authors' code) or "mean".
        jacobian: Computes J v; one that is kept traces the network once for all its points. Default: a new one.
        precision: Precision of g, J v and J' u.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        targets: Any,
        loss_fn: LossFunction,
        likelihood: Likelihood,
        reduction: Reduction,
        jacobian: Jacobian | None = None,
        precision: Precision = WHOLE,
    ) -> None:
        with_loss = point_of(model, inputs, precision, targets=targets, loss_fn=loss_fn)
        self._point = point = replace(with_loss, targets=None, loss_fn=None)
        self._explained = partial(explained, model, replace(point, precision=WHOLE).outputs)
        self._products = partial(precision.products, point.device)
        with differentiable_inference(model), self._explained(), self._products():
            self._outputs, loss = point.evaluated(lambda z: (z, with_loss.loss_of(z)))
            point.require_differentiable(loss)
            gradients = torch.autograd.grad(
                loss, list(point.parameters.values()), retain_graph=True, materialize_grads=True
            )
            self._push = (jacobian or Jacobian())(point, self._outputs)
            self._output_fisher, count = likelihood.fisher(self._outputs.detach(), targets)
        self.gradient: Named = dict(zip(point.parameters, gradients, strict=True))
        self._scale = 1.0 if reduction == "sum" else count.to(self._outputs.dtype).reciprocal()

    def product(self, v: Named) -> Named:
        """H v: forward, M, backward."""
        with self._products():
            with self._explained():
                (pushed,) = self._push(v)
            u = self._output_fisher(pushed) * self._scale
            return dict(zip(self._point.parameters, pull(self._point, self._outputs, u), strict=True))


class HessianCurvature:
    """H = the Hessian of the mean loss (Newton).

    Args:
        model, inputs, targets, loss_fn, precision: As for ``FisherCurvature``.
        hessian: Computes g and H v: a kept ``Hessian`` traces the network once for all its points. Default: reverse
            over reverse, which is cheaper for a few products.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        targets: Any,
        loss_fn: LossFunction,
        hessian: Callable[[Point], tuple[Named, Push]] = reverse_over_reverse,
        precision: Precision = WHOLE,
    ) -> None:
        point = point_of(model, inputs, precision, targets=targets, loss_fn=loss_fn)
        self._explained = partial(explained, model, replace(point, precision=WHOLE).outputs, point.loss_of)
        self._products = partial(precision.products, point.device)
        with differentiable_inference(model), self._explained(), self._products():
            self.gradient, self._push = hessian(point)

    def product(self, v: Named) -> Named:
        """H v."""
        with self._products(), self._explained():
            return dict(zip(self.gradient, self._push(v), strict=True))
