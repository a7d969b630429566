"""Runs of the suite's own ``SharpnessAware`` on a loss of a few coordinates, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from llqr_sam.methods.metrics import Metric
from llqr_sam.methods.sharpness_aware import SharpnessAware

Loss = Callable[[Tensor], Tensor]
Rate = Callable[[int], float]


def walk(
    loss: Loss | Callable[[Tensor, int], Tensor],
    start: Tensor,
    *,
    eta: float | Rate,
    rho: float | Rate,
    metric: Metric | None = None,
    noise: Callable[[int], Tensor] | None = None,
    by_step: bool = False,
) -> Iterator[Tensor]:
    """The iterates of (LLQR+)SAM on a loss: theta after each step, without end.

    Args:
        loss: theta -> 0-d loss; with ``by_step`` (theta, step) -> loss of that step's minibatch.
        start: theta_0 ``[d]``, or ``[B, d]`` for independent runs, with a summed loss and ``Replicas`` for a metric.
        eta: Learning rate, or a function of the step.
        rho: Radius, or a function of the step; 0 leaves gradient descent in the metric.
        metric: Probe and transport; ``None`` is SAM's identity.
        noise: Step -> gradient noise xi shaped like theta. It belongs to the minibatch, loss + xi' theta, so both
            passes of a step see the same.
        by_step: See ``loss``.

    Yields:
        theta after steps 1, 2, ... (a copy each).
    """
    theta = nn.Parameter(start.detach().clone())
    rate, radius = _constant(eta), _constant(rho)
    optimizer = SharpnessAware(torch.optim.SGD([theta], lr=rate(0)), rho=radius(0), probe=metric, transport=metric)
    step = 0
    while True:
        optimizer.param_groups[0].update(lr=rate(step), rho=radius(step))
        tilt = noise(step) if noise else None

        def closure(step: int = step, tilt: Tensor | None = tilt) -> Tensor:
            optimizer.zero_grad()
            value: Tensor = loss(theta, step) if by_step else loss(theta)  # type: ignore[call-arg]
            value = value if tilt is None else value + (tilt * theta).sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(closure)
        step += 1
        yield theta.detach().clone()


def trajectory(
    loss: Loss, start: Tensor, steps: int, *, eta: float, rho: float, metric: Metric | None = None
) -> Tensor:
    """theta_0 and the iterates of ``steps`` steps, ``[steps + 1, *theta]``; see ``walk``."""
    iterates = walk(loss, start, eta=eta, rho=rho, metric=metric)
    return torch.stack([start, *(next(iterates) for _ in range(steps))])


def _constant(rate: float | Rate) -> Rate:
    return rate if callable(rate) else lambda _: rate
