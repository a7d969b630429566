"""v -> H v for the Hessian H of a minibatch's mean loss, in two ways.

Reverse over reverse, a backward pass through the retained gradient, works for whatever has second derivatives. Forward
over reverse, the derivative of the gradient along v, costs less once it is traced (replay.py): its operations are the
backward kernels themselves. It is compared with the first way on one random product for each trace and loss; the first
way, where it is used itself, relies on backward passes that autograd sees into, which is tested once for each loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llqr_sam.methods.curvature.diagnosis import require_adjoint, require_second_derivatives
from llqr_sam.methods.curvature.forward_trace import Push, Replaying, agree, random_like
from llqr_sam.methods.curvature.point import LossFunction, LossPoint
from llqr_sam.methods.curvature.trace import Replayed, Trace
from llqr_sam.methods.named import Named


def reverse_over_reverse(point: LossPoint) -> tuple[Named, Push]:
    """g, and v -> H v by a backward pass through g.

    Raises:
        RuntimeError: an operation on the way has no second derivative.
    """
    parameters = list(point.parameters.values())
    gradients = _gradients(point, create_graph=True)
    require_second_derivatives(gradients)
    # A parameter on which the gradient does not depend has no graph to differentiate through.
    graphs = {name: g for name, g in zip(point.parameters, gradients, strict=True) if g.requires_grad}

    def push(v: Named) -> list[Tensor]:
        along = [v[name] for name in graphs]
        if not graphs:
            return [torch.zeros_like(p) for p in parameters]
        pulled = torch.autograd.grad(
            list(graphs.values()), parameters, along, retain_graph=True, materialize_grads=True
        )
        return list(pulled)

    return {name: g.detach() for name, g in zip(point.parameters, gradients, strict=True)}, push


class ReverseOverReverse:
    """``reverse_over_reverse``, for one network, after a test of the backward passes that it goes through."""

    def __init__(self) -> None:
        self._tested: LossFunction | None = None

    def __call__(self, point: LossPoint) -> tuple[Named, Push]:
        """At a point.

        Raises:
            RuntimeError: an operation on the way has no second derivative.
        """
        if self._tested is None or self._tested != point.loss_fn:
            parameters = list(point.parameters.values())
            outputs, loss = point.evaluated(lambda z: (z, point.loss_of(z)))
            require_adjoint([outputs], parameters, point.precision.eps)
            require_adjoint([loss], [outputs])
            self._tested = point.loss_fn
        return reverse_over_reverse(point)


class HessianReplay(Replaying):
    """g, and v -> H v by forward over reverse where the network can be replayed; by reverse over reverse elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self._reverse_over_reverse = ReverseOverReverse()

    def __call__(self, point: LossPoint) -> tuple[Named, Push]:
        """At a point.

        Raises:
            RuntimeError: an operation on the way has no second derivative.
        """
        known = self._replay.known(point)
        verified = isinstance(known, Trace) and known.verified_for == point.loss_fn
        # Computed before a trace is at hand, so that the memory of both is not needed at once.
        exact = None if verified or isinstance(known, str) else _one_product(point)
        gradients = _gradients(point)

        def verify(trace: Trace, replayed: Replayed) -> bool:
            if trace.verified_for == point.loss_fn:
                return True
            if not agree(replayed.push(_direction(point)), exact or _one_product(point), point.precision.eps):
                return False
            trace.verified_for = point.loss_fn
            return True

        replayed = self._replay(point, gradients, verify)
        if replayed is None:
            return self._reverse_over_reverse(point)
        return dict(zip(point.parameters, gradients, strict=True)), replayed.push


def _gradients(point: LossPoint, *, create_graph: bool = False) -> list[Tensor]:
    loss = point.loss()
    point.require_differentiable(loss)
    parameters = list(point.parameters.values())
    return list(torch.autograd.grad(loss, parameters, create_graph=create_graph, materialize_grads=True))


def _direction(point: LossPoint) -> Named:
    return dict(zip(point.parameters, random_like(list(point.parameters.values())), strict=True))


def _one_product(point: LossPoint) -> list[Tensor]:
    """H v by reverse over reverse, v random; its graph is gone when this returns."""
    _, push = reverse_over_reverse(point)
    return push(_direction(point))
