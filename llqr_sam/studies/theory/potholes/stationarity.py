"""How fast the gradient vanishes under a frozen metric (paper, Proposition B.1).

    E |grad_P L(theta_tau)|_P^2 = E g(theta_tau)' U g(theta_tau) = O(T^-1/2),   tau uniform over 0 .. T-1,

with the decaying step and radius of Riemannian SAM (Yun and Yang 2023). The paper gives no exponents. Step t, from 1,
here has alpha_t = alpha t^-1/2 and rho_t = rho t^-p, p = 1/2 or 1/4: a probe of that length biases the gradient by
O(rho_t) and its square by O(t^-2p), so that 1/4 is the slowest decay under which the rate can survive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from llqr_sam.studies.theory.potholes.simulate import FixedMetric, Replicas, walk


def logistic(margins: Tensor, labels: Tensor) -> Tensor:
    """Convex: the negative log-likelihood of labels in {0, 1}, elementwise."""
    return softplus(margins) - labels * margins


def neuron(margins: Tensor, labels: Tensor) -> Tensor:
    """Not convex: half the squared error of one tanh neuron, elementwise."""
    return 0.5 * (torch.tanh(margins) - labels).square()


@dataclass(frozen=True)
class Regression:
    """A generalised linear model on N samples, so that minibatch gradients have real noise."""

    features: Tensor  # [N, d]
    labels: Tensor  # [N]
    sample_loss: Callable[[Tensor, Tensor], Tensor]  # (margins, labels) -> losses, elementwise

    @staticmethod
    def drawn(kind: str) -> Regression:
        """Gaussian features of unequal scales, with noisy classes ("convex") or noisy targets of a neuron."""
        samples, dimension, generator = 64, 4, torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        features = draw(samples, dimension) * torch.logspace(-0.3, 0.3, dimension, dtype=torch.float64)
        signal = features @ draw(dimension) + draw(samples)
        if kind == "convex":
            return Regression(features, (signal > 0).double(), logistic)
        return Regression(features, torch.tanh(signal) + 0.5 * draw(samples), neuron)

    def minibatch_loss(self, theta: Tensor, indices: Tensor) -> Tensor:
        """Mean loss of each row of ``theta`` ``[B, d]`` on its own samples ``[B, b]``, summed over rows."""
        margins = (self.features[indices] * theta.unsqueeze(1)).sum(2)
        return self.sample_loss(margins, self.labels[indices]).mean(1).sum()

    def gradient(self, theta: Tensor) -> Tensor:
        """Full gradient of each row, ``[B, d]``."""
        theta = theta.detach().requires_grad_()
        losses = self.sample_loss(theta @ self.features.mT, self.labels).mean(1)
        return torch.autograd.grad(losses.sum(), theta)[0]


def mean_gradient_norms(
    problem: Regression,
    metric: Tensor,
    horizons: list[int],
    *,
    step: float,
    radius: float,
    exponent: float,
    replicas: int,
) -> list[float]:
    """E g' U g at a uniformly drawn step below each horizon T, g the full gradient, averaged over replicas.

    Args:
        problem: The loss.
        metric: U ``[d, d]``, constant.
        horizons: T, ascending.
        step: alpha; step t, from 1, has learning rate alpha t^-1/2.
        radius: rho; step t has radius rho t^-exponent.
        exponent: p; 0 keeps the radius.
        replicas: Number of independent runs, on minibatches of one sample drawn with replacement.
    """
    generator = torch.Generator().manual_seed(1)
    size, dimension = problem.features.shape
    theta = 2 * torch.randn(replicas, dimension, generator=generator, dtype=torch.float64)
    indices = torch.zeros(replicas, 1, dtype=torch.int64)
    iterates = walk(
        lambda theta: problem.minibatch_loss(theta, indices),
        theta,
        eta=lambda t: step / math.sqrt(t + 1),
        rho=lambda t: radius * math.pow(t + 1, -exponent),
        metric=Replicas(FixedMetric(metric)),
    )
    total, means = 0.0, {}
    for t in range(1, horizons[-1] + 1):
        g = problem.gradient(theta)
        total += float(((g @ metric) * g).sum(1).mean())
        if t in horizons:
            means[t] = total / t
        indices.copy_(torch.randint(size, (replicas, 1), generator=generator))
        theta = next(iterates)
    return [means[t] for t in horizons]


def slope(x: list[float] | list[int], y: list[float]) -> float:
    """Least-squares exponent p of y = c x^p."""
    log_x, log_y = (torch.tensor(values, dtype=torch.float64).log() for values in (x, y))
    centred = log_x - log_x.mean()
    return float((centred * log_y).sum() / centred.square().sum())
