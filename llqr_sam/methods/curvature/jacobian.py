"""v -> J v for the Jacobian J of a network's outputs, in two ways.

Double backward is the derivative of u -> J' u, which is linear in u; it works for whatever has second derivatives.
Forward mode costs less once it is traced (replay.py). The trace is held against the network's own J' u, parameter by
parameter for a random u, at each point, and its J v once against the same J' u; double backward relies on backward
passes that autograd sees into, which is tested once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llqr_sam.methods.curvature.diagnosis import agreeing, require_adjoint, require_second_derivatives
from llqr_sam.methods.curvature.forward_trace import Push, Replaying, agree, random_like
from llqr_sam.methods.curvature.point import Point
from llqr_sam.methods.curvature.trace import Replayed, Trace
from llqr_sam.methods.named import Named, dot


class DoubleBackward:
    """v -> J v for one network without a trace, which costs less for a single product."""

    def __init__(self) -> None:
        self._tested = False

    def __call__(self, point: Point, outputs: Tensor) -> Push:
        """At a point whose outputs, with their graph, are given.

        Raises:
            RuntimeError: an operation on the way has no second derivative.
        """
        parameters = list(point.parameters.values())
        if not self._tested:
            require_adjoint([outputs], parameters, point.precision.eps)
            self._tested = True
        (u,) = random_like([outputs])  # not 0, where some backward passes, linear as they are, take a logarithm
        u.requires_grad_()
        pulled = pull(point, outputs, u, create_graph=True)
        graphs = {name: t for name, t in zip(point.parameters, pulled, strict=True) if t.requires_grad}
        require_second_derivatives(graphs.values())

        def push(v: Named) -> list[Tensor]:
            if not graphs:
                return [torch.zeros_like(outputs)]
            along = [v[name] for name in graphs]
            return list(torch.autograd.grad(list(graphs.values()), u, along, retain_graph=True, materialize_grads=True))

        return push


class JacobianReplay(Replaying):
    """v -> J v in forward mode where the network can be replayed; by double backward elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self._double_backward = DoubleBackward()

    def __call__(self, point: Point, outputs: Tensor) -> Push:
        """At a point whose outputs, with their graph, are given.

        Raises:
            RuntimeError: an operation on the way has no second derivative.
        """

        def verify(trace: Trace, replayed: Replayed) -> bool:
            us = random_like([outputs])
            pulled = pull(point, outputs, us[0])
            eps = point.precision.eps
            if not agree(replayed.pull(us, point.parameters), pulled, eps):
                return False
            # Its J' u is the backward pass of its J v. Operations exist whose two derivatives differ, at every point.
            if trace.verified_for is None:
                v = dict(zip(point.parameters, random_like(pulled), strict=True))
                (pushed,) = replayed.push(v)
                # u is random and has norm 1: u' (J v) is about |J v| / sqrt(entries), and rounding is eps of that.
                share = max(100 * torch.finfo(pushed.dtype).eps, 2 * eps / max(1, pushed.numel()) ** 0.5)
                rounding = share * torch.linalg.vector_norm(pushed)
                if not agreeing((us[0] * pushed).sum(), dot(v, dict(zip(v, pulled, strict=True))), rounding, eps):
                    return False
                trace.verified_for = "J v"
            return True

        replayed = self._replay(point, [outputs], verify)
        return self._double_backward(point, outputs) if replayed is None else replayed.push


def pull(point: Point, outputs: Tensor, u: Tensor, *, create_graph: bool = False) -> list[Tensor]:
    """J' u, one tensor for each parameter, by a backward pass through the network.

    Args:
        point: Where the outputs were computed.
        outputs: With their graph, which stays.
        u: Shaped like the outputs.
        create_graph: Whether J' u has a graph itself.
    """
    parameters = list(point.parameters.values())
    if not outputs.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    with torch.set_grad_enabled(create_graph):
        pulled = torch.autograd.grad(
            outputs, parameters, u, retain_graph=True, create_graph=create_graph, materialize_grads=True
        )
    return list(pulled)
