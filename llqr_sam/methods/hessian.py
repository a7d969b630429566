"""v -> H v for the Hessian H of a minibatch's mean loss, in two ways.

Reverse over reverse, a backward pass through the retained gradient, works for whatever has second derivatives. Forward
over reverse, the derivative of the gradient along v, costs less once it is traced (replay.py): its operations are the
backward kernels themselves. It is compared with the first way on one product for each trace and loss; the first way,
where it is used itself, relies on backward passes that autograd sees into, which is tested once for each loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import grad

from llqr_sam.methods.diagnosis import require_adjoint, require_second_derivatives
from llqr_sam.methods.named import Named
from llqr_sam.methods.replay import Point, Push, Replay, Trace, agree

LossFunction = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class LossPoint(Point):
    """Where a mean loss is differentiated.

    Attributes:
        targets: Whatever ``loss_fn`` takes.
        loss_fn: ``loss_fn(outputs, targets)``, the mean loss, 0-d.
    """

    varying: ClassVar[tuple[str, ...]] = (*Point.varying, "targets")

    targets: Any
    loss_fn: LossFunction

    def loss(self, parameters: Named | None = None) -> Tensor:
        """The mean loss, at these or at other parameters."""
        return self.loss_of(self.outputs(parameters))

    def loss_of(self, outputs: Tensor) -> Tensor:
        """The mean loss of these outputs."""
        return self.loss_fn(outputs, self.targets)

    def values(self, parameters: Named) -> list[Tensor]:
        """The gradient of the loss."""
        return list(grad(self.loss)(parameters).values())


def reverse_over_reverse(point: LossPoint) -> tuple[Named, Push]:
    """g, and v -> H v by a backward pass through g.

    Raises:
        RuntimeError: an operation on the way has no second derivative.
    """
    parameters = list(point.parameters.values())
    gradients = torch.autograd.grad(point.loss(), parameters, create_graph=True, materialize_grads=True)
    require_second_derivatives(gradients)
    # A parameter on which the gradient does not depend has no graph to differentiate through.
    graphs = {name: g for name, g in zip(point.parameters, gradients, strict=True) if g.requires_grad}

    def push(v: Named) -> list[Tensor]:
        along = [v[name] for name in graphs]
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
            outputs = point.outputs()
            require_adjoint([outputs], list(point.parameters.values()))
            z = outputs.detach().requires_grad_()
            require_adjoint([point.loss_of(z)], [z])
            self._tested = point.loss_fn
        return reverse_over_reverse(point)


class HessianReplay:
    """g, and v -> H v by forward over reverse where the network can be replayed; by reverse over reverse elsewhere."""

    def __init__(self) -> None:
        self._replay = Replay()
        self._reverse_over_reverse = ReverseOverReverse()
        self._verified: tuple[Trace | None, LossFunction | None] = (None, None)

    def __call__(self, point: LossPoint) -> tuple[Named, Push]:
        """At a point.

        Raises:
            RuntimeError: an operation on the way has no second derivative.
        """
        exact = None if self._trusted(point) else _one_product(point)
        gradient = _gradient(point)
        push = self._replay(point, list(gradient.values()))
        if push is None:
            return self._reverse_over_reverse(point)
        if not self._trusted(point):
            if not agree(push(gradient), exact or _one_product(point)):
                self._replay.refuse(point)
                return self._reverse_over_reverse(point)
            self._verified = self._replay.trace, point.loss_fn
        return gradient, push

    def _trusted(self, point: LossPoint) -> bool:
        """Whether a product of the present trace has been compared, for this loss and points like this one."""
        trace, loss_fn = self._verified
        fits = trace is not None and trace is self._replay.trace and trace.fits(point)
        return fits and loss_fn == point.loss_fn


def _gradient(point: LossPoint) -> Named:
    gradients = torch.autograd.grad(point.loss(), list(point.parameters.values()), materialize_grads=True)
    return dict(zip(point.parameters, gradients, strict=True))


def _one_product(point: LossPoint) -> list[Tensor]:
    """H g by reverse over reverse; its graph is gone when this returns."""
    gradient, push = reverse_over_reverse(point)
    return push(gradient)
