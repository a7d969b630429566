"""v -> J v for the Jacobian J of a network's outputs, and v -> H v for the Hessian H of its mean loss.

Each has a fast way, the replay of a forward trace (trace.py), and a slow one that works for whatever has second
derivatives and serves where nothing can be replayed, or a single product is wanted:

    J v    double backward, the derivative of u -> J' u, which is linear in u
    H v    reverse over reverse, a backward pass through the retained gradient

A trace of the outputs is compared with the network's own J' u, parameter by parameter for a random u, at each point,
and its J v once with the same J' u. A trace of the gradient (forward over reverse) is compared with reverse over
reverse, on one random product for each trace and loss. The slow ways rely on backward passes that autograd sees into,
which is tested once for each network and loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from llqr_sam.methods.curvature.diagnosis import agreeing, require_adjoint, require_second_derivatives
from llqr_sam.methods.curvature.point import LossFunction, Point
from llqr_sam.methods.curvature.trace import ForwardTrace, Linearization, TraceCache, agree
from llqr_sam.methods.named import Named, dot

Push = Callable[[Named], list[Tensor]]


class Jacobian:
    """v -> J v for one network at changing points; ``untraced`` says why it is not traced, and is empty where it is."""

    def __init__(self, untraced: str = "") -> None:
        self.cache = TraceCache(untraced)
        self._tested = False

    def __call__(self, point: Point, outputs: Tensor) -> Push:
        """v -> [J v] at a point whose outputs are given with their graph; RuntimeError without second derivatives."""
        replayed = self.cache.at(point, [outputs], partial(self._verified, point, outputs))
        return self._double_backward(point, outputs) if replayed is None else replayed.push

    def _double_backward(self, point: Point, outputs: Tensor) -> Push:
        parameters = list(point.parameters.values())
        if not self._tested:
            require_adjoint([outputs], parameters, point.precision.eps)
            self._tested = True
        (u,) = _random_like([outputs])  # not 0, where some backward passes, linear as they are, take a logarithm
        u.requires_grad_()
        pulled = pull(point, outputs, u, create_graph=True)
        return _through(dict(zip(point.parameters, pulled, strict=True)), [u])

    def _verified(self, point: Point, outputs: Tensor, trace: ForwardTrace, replayed: Linearization) -> bool:
        """Whether J' u of the trace is the network's, and once for each trace whether its J v is of the same J."""
        (u,), eps = _random_like([outputs]), point.precision.eps
        pulled = pull(point, outputs, u)
        if not agree(replayed.pull([u], point.parameters), pulled, eps):
            return False
        # J' u of a trace is the backward pass of its J v. Some operations have two derivatives that differ everywhere.
        if trace.verified_for is None:
            v = dict(zip(point.parameters, _random_like(pulled), strict=True))
            (pushed,) = replayed.push(v)
            # u is random and has norm 1: u' (J v) is about |J v| / sqrt(entries), and rounding is eps of that.
            share = max(100 * torch.finfo(pushed.dtype).eps, 2 * eps / max(1, pushed.numel()) ** 0.5)
            rounding = share * torch.linalg.vector_norm(pushed)
            if not agreeing((u * pushed).sum(), dot(v, dict(zip(v, pulled, strict=True))), rounding, eps):
                return False
            trace.verified_for = "J v"
        return True


class Hessian:
    """g and v -> H v for one network at changing points; ``untraced`` as of ``Jacobian``."""

    def __init__(self, untraced: str = "") -> None:
        self.cache = TraceCache(untraced)
        self._tested: LossFunction | None = None

    def __call__(self, point: Point) -> tuple[Named, Push]:
        """g, and v -> H v as a list in the order of g; RuntimeError without second derivatives."""
        trace = self.cache.known(point)
        if not self.cache.refusal:
            verified = trace is not None and trace.verified_for == point.loss_fn
            # Computed before a trace is at hand, so that the memory of both is not needed at once.
            exact = None if verified else _one_product(point)
            gradients = _gradients(point)
            replayed = self.cache.at(point, gradients, partial(self._verified, point, exact))
            if replayed is not None:
                return dict(zip(point.parameters, gradients, strict=True)), replayed.push
        if self._tested is None or self._tested != point.loss_fn:
            outputs, loss = point.evaluated(lambda z: (z, point.loss_of(z)))
            require_adjoint([outputs], list(point.parameters.values()), point.precision.eps)
            require_adjoint([loss], [outputs])
            self._tested = point.loss_fn
        return reverse_over_reverse(point)

    def _verified(self, point: Point, exact: list[Tensor] | None, trace: ForwardTrace, replayed: Linearization) -> bool:
        """Whether H v of the trace is the network's, once for each trace and loss."""
        if trace.verified_for == point.loss_fn:
            return True
        if not agree(replayed.push(_direction(point)), exact or _one_product(point), point.precision.eps):
            return False
        trace.verified_for = point.loss_fn
        return True


def reverse_over_reverse(point: Point) -> tuple[Named, Push]:
    """g, and v -> H v by a backward pass through g; RuntimeError without second derivatives."""
    gradients = dict(zip(point.parameters, _gradients(point, create_graph=True), strict=True))
    push = _through(gradients, list(point.parameters.values()))
    return {name: g.detach() for name, g in gradients.items()}, push


def pull(point: Point, outputs: Tensor, u: Tensor, *, create_graph: bool = False) -> list[Tensor]:
    """J' u, one tensor for each parameter, by a backward pass through the outputs' graph, which stays."""
    parameters = list(point.parameters.values())
    if not outputs.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    with torch.set_grad_enabled(create_graph):
        pulled = torch.autograd.grad(
            outputs, parameters, u, retain_graph=True, create_graph=create_graph, materialize_grads=True
        )
    return list(pulled)


def _through(linear: Named, leaves: Sequence[Tensor]) -> Push:
    """v -> the backward pass of v through tensors that have a graph, to ``leaves``."""
    # A parameter that nothing depends on has no graph to differentiate through.
    graphs = {name: t for name, t in linear.items() if t.requires_grad}
    require_second_derivatives(graphs.values())

    def push(v: Named) -> list[Tensor]:
        if not graphs:
            return [torch.zeros_like(leaf) for leaf in leaves]
        along = [v[name] for name in graphs]
        return list(
            torch.autograd.grad(list(graphs.values()), leaves, along, retain_graph=True, materialize_grads=True)
        )

    return push


def _gradients(point: Point, *, create_graph: bool = False) -> list[Tensor]:
    loss = point.loss()
    point.require_differentiable(loss)
    parameters = list(point.parameters.values())
    return list(torch.autograd.grad(loss, parameters, create_graph=create_graph, materialize_grads=True))


def _one_product(point: Point) -> list[Tensor]:
    """Returns H v by reverse over reverse for a random v, and frees the graph."""
    _, push = reverse_over_reverse(point)
    return push(_direction(point))


def _direction(point: Point) -> Named:
    return dict(zip(point.parameters, _random_like(list(point.parameters.values())), strict=True))


def _random_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns normal entries, each tensor scaled to unit norm; the same entries at each call."""
    directions = []
    for i, t in enumerate(tensors):
        generator = torch.Generator(t.device).manual_seed(i)  # leaves the caller's random numbers alone
        x = torch.randn(t.shape, generator=generator, dtype=t.dtype, device=t.device)
        directions.append(x / torch.linalg.vector_norm(x).clamp_min(torch.finfo(t.dtype).tiny))
    return directions
