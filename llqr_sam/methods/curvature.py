"""Curvature-vector products at a fixed point.

A refresh needs H v for fifty v at one theta, so what depends on theta alone is computed once.

Notation: z = f(theta) are the outputs, ``[N, C]`` (N samples or tokens, C classes); v and H v are name -> tensor
with the shapes of the parameters; J = dz/dtheta; M is the Fisher matrix of the predictive distribution at z.

    NGD     H v = s J' M J v     s = 1 (sum, the authors' code) or 1/N (mean); M = diag p - p p' for a softmax
    Newton  H v = d2 l v         l the mean loss

Both have batch-norm in inference mode, dropout off, and the plain attention kernels: the fused ones have neither a
forward-mode nor a second derivative (METHODS section 2). A network in half precision is linearised in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from llqr_sam.methods.diagnosis import agreeing, explained, require_adjoint, require_second_derivatives
from llqr_sam.methods.hessian import LossFunction, LossPoint, reverse_over_reverse
from llqr_sam.methods.inference import differentiable_inference
from llqr_sam.methods.likelihoods import Likelihood
from llqr_sam.methods.named import HALF, Named, dot
from llqr_sam.methods.replay import Point, Push, Replay

Divergence = Literal["ngd", "newton"]
Reduction = Literal["sum", "mean"]
Pusher = Callable[[Point, list[Tensor]], Push | None]
Differentiate = Callable[[LossPoint], tuple[Named, Push]]


class Curvature(Protocol):
    """The loss to second order at one point."""

    gradient: Named
    """g, the gradient of the mean loss."""

    def product(self, v: Named) -> Named:
        """H v, shaped like v."""
        ...


class FisherCurvature:
    """H = s J' M J, the Fisher matrix of the predictive distribution (natural gradient).

    J v is a replayed forward-mode pass where the network has one, else two backward passes; J' u is a retained
    backward pass.

    Args:
        model: Network; its trainable parameters are the coordinates.
        inputs: Preconditioner minibatch; a tuple is spread over positional arguments, a mapping over keywords.
        targets: Whatever ``loss_fn`` takes.
        loss_fn: ``loss_fn(outputs, targets)``, the mean loss, 0-d.
        likelihood: Predictive distribution.
        reduction: "sum" over samples (authors' code) or "mean".
        pusher: How J v is computed: a ``Replay`` (kept, it traces the network once for all its refreshes) for many
            products, ``double_backward`` for one. Default: a replay of its own.

    Raises:
        UnsupportedModuleError: a module on the way has no second derivative (also from ``product``).
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        targets: Any,
        loss_fn: LossFunction,
        likelihood: Likelihood,
        reduction: Reduction,
        pusher: Pusher | None = None,
    ) -> None:
        self._point = point = point_of(model, inputs)
        self._explained = partial(explained, model, point.outputs)
        with differentiable_inference(model), self._explained():
            self._outputs = outputs = point.outputs()
            self._push = (pusher or Replay())(point, [outputs]) or double_backward(point, [outputs])
            gradients = torch.autograd.grad(
                loss_fn(outputs, targets), list(point.parameters.values()), retain_graph=True, materialize_grads=True
            )
        self.gradient: Named = dict(zip(point.parameters, gradients, strict=True))
        self._output_fisher, count = likelihood.fisher(outputs.detach(), targets)
        self._scale = 1.0 if reduction == "sum" else count.to(outputs.dtype).reciprocal()
        self._unverified = 2

    def product(self, v: Named) -> Named:
        """H v: forward, M, backward."""
        parameters = self._point.parameters
        with self._explained():
            (pushed,) = self._push(v)
        u = self._output_fisher(pushed) * self._scale
        pulled = torch.autograd.grad(
            self._outputs, list(parameters.values()), u, retain_graph=True, materialize_grads=True
        )
        product = dict(zip(parameters, pulled, strict=True))
        if self._unverified:
            # A trace may hold what the network no longer does; J and J' of one network cannot disagree.
            self._unverified -= 1
            if not agreeing((pushed * u).sum(), dot(v, product)):
                with self._explained():
                    require_adjoint([self._outputs], list(parameters.values()))
                    self._push = double_backward(self._point, [self._outputs])
                return self.product(v)
        return product


class HessianCurvature:
    """H = the Hessian of the mean loss (Newton).

    Args:
        model, inputs, targets, loss_fn: As for ``FisherCurvature``.
        differentiate: How g and H v are computed: a ``HessianReplay`` (kept, it traces the network once for all its
            refreshes) for many products, ``reverse_over_reverse`` for one. Default: the latter.

    Raises:
        UnsupportedModuleError: a module on the way, or the loss, has no second derivative.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        targets: Any,
        loss_fn: LossFunction,
        differentiate: Differentiate = reverse_over_reverse,
    ) -> None:
        at = point_of(model, inputs)
        point = LossPoint(model, at.parameters, at.constants, at.inputs, targets, loss_fn)
        self._explained = partial(explained, model, point.outputs, point.loss_of)
        with differentiable_inference(model), self._explained():
            self.gradient, self._push = differentiate(point)

    def product(self, v: Named) -> Named:
        """H v."""
        with self._explained():
            return dict(zip(self.gradient, self._push(v), strict=True))


def double_backward(point: Point, values: list[Tensor]) -> Push:
    """v -> J v as the derivative of u -> J' u, which is linear in u; for a network that cannot be replayed."""
    (outputs,) = values
    u = torch.zeros_like(outputs, requires_grad=True)
    with torch.enable_grad():
        pulled = torch.autograd.grad(
            outputs, list(point.parameters.values()), u, create_graph=True, materialize_grads=True
        )
    graphs = {name: t for name, t in zip(point.parameters, pulled, strict=True) if t.requires_grad}
    require_second_derivatives(graphs.values())

    def push(v: Named) -> list[Tensor]:
        along = [v[name] for name in graphs]
        return list(torch.autograd.grad(list(graphs.values()), u, along, retain_graph=True, materialize_grads=True))

    return push


def point_of(model: nn.Module, inputs: Any) -> Point:
    """The model as it stands, in float32 at least: coordinates are leaves whose ``.grad`` is not the model's."""
    parameters, constants = {}, {name: _single(buffer) for name, buffer in model.named_buffers()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameters[name] = _single(parameter.detach()).requires_grad_()
        else:
            constants[name] = _single(parameter.detach())
    return Point(model, parameters, constants, _single(inputs))


def _single(tree: Any) -> Any:
    """Half-precision tensors in float32; everything else, of whatever nesting, as it is."""
    if isinstance(tree, Tensor):
        return tree.float() if tree.dtype in HALF else tree
    if isinstance(tree, Mapping):
        return {key: _single(value) for key, value in tree.items()}
    return tuple(_single(value) for value in tree) if isinstance(tree, tuple) else tree
