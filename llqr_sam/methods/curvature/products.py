"""Curvature-vector products at a fixed point.

With z = f(theta) the outputs, ``[N, C]``, J = dz/dtheta, M the likelihood's Fisher matrix at z and l the mean loss,

    NGD     H v = s J' M J v     s = 1 (sum, the authors' code) or 1/N (mean)
    Newton  H v = d2 l v

J v and Newton's H v come from a trace (trace.py), compared with the network, or else from a slow way that works for
whatever has second derivatives: double backward for J v, as J' u is linear in u, and reverse over reverse for H v.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from llqr_sam.methods.curvature.agreement import unfit
from llqr_sam.methods.curvature.diagnosis import agreeing, explained, require_adjoint
from llqr_sam.methods.curvature.inference import differentiable_inference
from llqr_sam.methods.curvature.likelihoods import Likelihood
from llqr_sam.methods.curvature.point import LossFunction, Point, vjp
from llqr_sam.methods.curvature.trace import ForwardTrace, Push, TraceCache, agree
from llqr_sam.methods.named import Named, dot

Divergence = Literal["ngd", "newton"]
Reduction = Literal["sum", "mean"]


@dataclass
class Curvature:
    """The loss to second order at one point."""

    gradient: Named  # g, the gradient of the mean loss
    product: Callable[[Named], Named]  # v -> H v, shaped like v


class Fisher:
    """H = s J' M J, the Fisher matrix, at each point given; ``untraced`` says why nothing is traced, or is empty."""

    comparing = False  # whether the likelihood is compared with the loss
    complaint: str | None = None  # why the two contradict each other, if they do

    def __init__(self, likelihood: Likelihood, reduction: Reduction, untraced: str = "") -> None:
        self.cache = TraceCache(untraced)
        self.likelihood, self.summed = likelihood, reduction == "sum"
        self._tested = False

    def at(self, point: Point) -> Curvature:
        """g and H at a point with a loss; UnsupportedModuleError without second derivatives."""
        alone = replace(point, targets=None, loss_fn=None)
        with differentiable_inference(point.model), explained(alone):
            outputs, loss = alone.evaluated(lambda z: (z, point.loss_of(z)))
            gradient = point.gradient_of(loss, retain_graph=True)
            push = self.jacobian(alone, outputs)
            output_fisher, count = self.likelihood.fisher(outputs.detach(), point.targets)
            if self.comparing and self.complaint is None and point.loss_fn is not None:
                # A loss may need more than its arguments, such as what forward left on a module: it is not compared.
                with contextlib.suppress(Exception):
                    self.complaint = unfit(self.likelihood, point.loss_fn, outputs.detach(), point.targets)
        scale = 1.0 if self.summed else count.to(outputs.dtype).reciprocal()
        return _curvature(alone, gradient, lambda v: _pull(alone, outputs, output_fisher(push(v)[0]) * scale))

    def jacobian(self, point: Point, outputs: Tensor) -> Push:
        """v -> [J v] at a point without a loss, whose outputs are given with their graph."""
        replayed = self.cache.at(point, [outputs], partial(self._verified, point, outputs))
        if replayed is not None:
            return replayed
        if not self._tested:
            require_adjoint([outputs], list(point.parameters.values()), point.precision.eps)
            self._tested = True
        u = _random_like(outputs)  # not 0, where some backward passes, linear as they are, take a logarithm
        u.requires_grad_()
        pulled = _pull(point, outputs, u, create_graph=True)
        return lambda v: vjp(pulled, [u], [v[name] for name in point.parameters], retain_graph=True)

    def _verified(self, point: Point, outputs: Tensor, trace: ForwardTrace, push: Push) -> bool:
        """Whether J' u of the trace is the network's, and once for each trace whether its J v is of the same J."""
        u, eps = _random_like(outputs), point.precision.eps
        tangents = {name: torch.zeros_like(p).requires_grad_() for name, p in point.parameters.items()}
        with torch.enable_grad():
            found = vjp(push(tangents), list(tangents.values()), [u])
        pulled = _pull(point, outputs, u)
        if not agree(found, pulled, eps):
            return False
        # J' u of a trace is the backward pass of its J v. Some operations have two derivatives that differ everywhere.
        if trace.verified_for is None:
            v = _direction(point)
            (jv,) = push(v)
            # u is random and has norm 1: u' (J v) is about |J v| / sqrt(entries), and rounding is eps of that.
            share = max(100 * torch.finfo(jv.dtype).eps, 2 * eps / max(1, jv.numel()) ** 0.5)
            rounding = share * torch.linalg.vector_norm(jv)
            if not agreeing((u * jv).sum(), dot(v, dict(zip(v, pulled, strict=True))), rounding, eps):
                return False
            trace.verified_for = "J v"
        return True


class Hessian:
    """H = the Hessian of the mean loss (Newton), at each point given; ``untraced`` as of ``Fisher``."""

    likelihood, summed, comparing = None, False, False
    complaint: str | None = None

    def __init__(self, untraced: str = "") -> None:
        self.cache = TraceCache(untraced)
        self._tested: LossFunction | None = None

    def at(self, point: Point) -> Curvature:
        """g and H at a point with a loss; UnsupportedModuleError without second derivatives."""
        with differentiable_inference(point.model), explained(point):
            found = self._replayed(point)
            if found is None and self._tested != point.loss_fn:
                outputs, loss = point.evaluated(lambda z: (z, point.loss_of(z)))
                require_adjoint([outputs], list(point.parameters.values()), point.precision.eps)
                require_adjoint([loss], [outputs])
                self._tested = point.loss_fn
            gradient, push = found or _reverse_over_reverse(point)
        return _curvature(point, gradient, push)

    def _replayed(self, point: Point) -> tuple[Named, Push] | None:
        """g and v -> H v by a trace, whose H v is compared with the network's once for each trace and loss."""
        known = self.cache.known(point)
        if self.cache.refusal:
            return None

        def product() -> list[Tensor]:
            return _reverse_over_reverse(point)[1](_direction(point))

        # Computed before a trace is at hand, so that the memory of both is not needed at once.
        exact = None if known and known.verified_for == point.loss_fn else product()
        gradient = point.gradient_of(point.loss())

        def verify(trace: ForwardTrace, push: Push) -> bool:
            if trace.verified_for != point.loss_fn:
                if not agree(push(_direction(point)), exact or product(), point.precision.eps):
                    return False
                trace.verified_for = point.loss_fn
            return True

        replayed = self.cache.at(point, list(gradient.values()), verify)
        return None if replayed is None else (gradient, replayed)


def _curvature(point: Point, gradient: Named, push: Push) -> Curvature:
    """g, and v -> H v by name; where a product fails, the error names the module."""

    def product(v: Named) -> Named:
        with explained(point):
            return dict(zip(gradient, push(v), strict=True))

    return Curvature(gradient, product)


def _reverse_over_reverse(point: Point) -> tuple[Named, Push]:
    """g, and v -> H v by a backward pass through g."""
    gradient, leaves = point.gradient_of(point.loss(), create_graph=True), list(point.parameters.values())
    return {name: g.detach() for name, g in gradient.items()}, lambda v: vjp(
        list(gradient.values()), leaves, [v[name] for name in gradient], retain_graph=True
    )


def _pull(point: Point, outputs: Tensor, u: Tensor, *, create_graph: bool = False) -> list[Tensor]:
    """J' u, one tensor for each parameter, by a backward pass through the outputs' graph, which stays."""
    return vjp([outputs], list(point.parameters.values()), [u], retain_graph=True, create_graph=create_graph)


def _direction(point: Point) -> Named:
    return {name: _random_like(p, seed) for seed, (name, p) in enumerate(point.parameters.items())}


def _random_like(t: Tensor, seed: int = 0) -> Tensor:
    """Normal entries, scaled to unit norm; the same at each call."""
    generator = torch.Generator(t.device).manual_seed(seed)  # leaves the caller's random numbers alone
    x = torch.randn(t.shape, generator=generator, dtype=t.dtype, device=t.device)
    return x.div(torch.linalg.vector_norm(x).clamp_min(torch.finfo(t.dtype).tiny))
