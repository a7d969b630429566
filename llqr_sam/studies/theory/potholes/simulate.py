"""Runs of ``SharpnessAware`` on a loss of a few coordinates, in float64, with a metric that is given."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from llqr_sam.methods.metrics import TINY, Metric
from llqr_sam.methods.named import Named
from llqr_sam.methods.shards import WHOLE, Shards
from llqr_sam.methods.sharpness_aware import SharpnessAware

Rate = Callable[[int], float]


class FixedMetric(Metric):
    """A constant inverse metric U, for parameters ``[d]`` or ``[B, d]``.

    ``matrix`` is U, symmetric positive definite ``[d, d]``, or its diagonal ``[d]``.
    """

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def apply(self, v: Named) -> Named:
        """U v, row by row."""
        if self.matrix.ndim == 1:
            return {name: x * self.matrix for name, x in v.items()}
        return {name: x @ self.matrix for name, x in v.items()}


class Replicas(Metric):
    """Makes each row of parameters ``[B, d]`` an independent run, with a norm of its own.

    ``SharpnessAware`` has one norm over all parameters, which is right for one network but would couple the runs. The
    metric is applied to the rows; ``Metric()`` gives B runs of plain SAM.
    """

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric, self.model, self.norm = metric, metric.model, metric.norm

    def apply(self, v: Named) -> Named:
        """U v."""
        return self.metric.apply(v)

    def ascent(
        self, v: Named, norm: Literal["metric", "euclidean"] | None = None, shards: Shards = WHOLE
    ) -> tuple[Named, float]:
        """U v / norm(v) for each row, as ``Metric.ascent`` for all rows together."""
        names, uv = list(v), self.apply(v)
        rows = [v[name].shape[0] for name in names]
        g, ug = (torch.cat([tensors[name] for name in names]) for tensors in (v, uv))
        squared = ug.square().sum(1, keepdim=True)
        if (norm or self.norm) == "metric":
            quadratic = (g * ug).sum(1, keepdim=True)
            usable = torch.isfinite(quadratic) & (quadratic > 0)
            self._fallbacks = self._fallbacks + (~usable & (squared > 0)).sum()
            squared = torch.where(usable, quadratic, squared)
        return dict(zip(names, torch.split(ug / torch.sqrt(squared + TINY), rows), strict=True)), 1.0


def walk(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    eta: float | Rate,
    rho: float | Rate,
    metric: Metric | None = None,
    noise: Callable[[int], Tensor] | None = None,
) -> Iterator[Tensor]:
    """The iterates of (LLQR+)SAM on a 0-d loss after steps 1, 2, ..., without end.

    ``start`` is theta_0 ``[d]``, or ``[B, d]`` for independent runs with a summed loss and ``Replicas`` as the metric.
    Learning rate and radius may be functions of the step, the gradient's noise is one. Without a metric it is plain
    SAM, and with radius 0 gradient descent in the metric.
    """
    theta = nn.Parameter(start.detach().clone())
    optimizer = SharpnessAware(torch.optim.SGD([theta], lr=1.0), probe=metric, transport=metric)
    for step in itertools.count():
        rate, radius = (value(step) if callable(value) else value for value in (eta, rho))
        optimizer.param_groups[0].update(lr=rate, rho=radius)
        take_step(optimizer, lambda: loss(theta), lambda: theta, noise(step) if noise else None)
        yield theta.detach().clone()


def take_step(
    optimizer: SharpnessAware, loss: Callable[[], Tensor], theta: Callable[[], Tensor], noise: Tensor | None = None
) -> None:
    """One step on loss + xi' theta: the gradient noise xi belongs to the minibatch, so both passes see the same."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss() if noise is None else loss() + (noise * theta()).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)


def trajectory(
    loss: Callable[[Tensor], Tensor], start: Tensor, steps: int, *, eta: float, rho: float, metric: Metric | None = None
) -> Tensor:
    """theta_0 and the iterates of ``steps`` steps, ``[steps + 1, *theta]``; arguments as for ``walk``."""
    iterates = walk(loss, start, eta=eta, rho=rho, metric=metric)
    return torch.stack([start, *itertools.islice(iterates, steps)])
