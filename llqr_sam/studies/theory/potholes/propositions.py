"""Appendix B of the paper by simulation: leaving a pothole, decaying gradients, and motion under gradient noise.

Notation: eta the learning rate, rho SAM's radius, U the metric, d its denominator, U = 1/d; tau or sigma the standard
deviation of the gradient noise in a coordinate; R the radius of a well. docs/theory.md has the results.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from llqr_sam.methods.metrics import Metric
from llqr_sam.studies.theory.potholes.simulate import FixedMetric, Replicas, walk


@dataclass(frozen=True)
class CutPothole:
    """Potholes of several radii, one per row, in one dimension (paper, eq. 6 and 18).

    Inside |z| < r the gradient is lambda z; outside it is the average landscape's, lambdabar (z - c), whose minimum c
    is far away. U = 1 / lambdabar everywhere: it does not see the pothole (Assumption 4.1).
    """

    sharpness: float  # lambda inside
    averaged: float  # lambdabar outside
    radii: Tensor  # r, [B, 1]
    centre: float  # c, the minimum of the average landscape

    def loss(self, z: Tensor) -> Tensor:
        """Sum over the rows of z ``[B, 1]``; continuous up to a constant, which does not affect the gradient."""
        inside = 0.5 * self.sharpness * z.square()
        outside = 0.5 * self.averaged * (z - self.centre).square()
        return torch.where(z.abs() < self.radii, inside, outside).sum()

    def escaped(self, *, eta: float, rho: float, steps: int, metric: bool = True) -> Tensor:
        """Which rows are outside after ``steps`` steps from just beside the minimum, ``[B]`` bool.

        With ``metric``, probe and transport use U = 1 / lambdabar; without it, U = I.
        """
        u = torch.tensor([1 / self.averaged], dtype=torch.float64)
        used = Replicas(FixedMetric(u) if metric else Metric())
        iterates = walk(self.loss, torch.full_like(self.radii, 1e-4), eta=eta, rho=rho, metric=used)
        z = next(itertools.islice(iterates, steps - 1, None))
        return (z.abs() >= self.radii).squeeze(1)


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
    """E g' U g, g the full gradient, at a uniformly drawn step below each horizon T (ascending); a mean over replicas.

    Prop. B.1 says O(T^-1/2) under a constant metric U ``[d, d]``. The paper gives no exponents (Yun and Yang 2023);
    step t, from 1, here has rate ``step`` t^-1/2, radius ``radius`` t^-``exponent``, and a minibatch of one sample,
    drawn with replacement. The probe biases the square of the gradient by O(t^-2 exponent), so that 1/4 is the slowest
    decay under which the rate can survive.
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


def stationary_variance(sharpness: float, d: float, eta: float, tau: float) -> float:
    """eta tau^2 / (lambda (2 d - eta lambda)), without a probe; needs d > eta lambda / 2 (paper, Prop. B.4)."""
    return eta * tau**2 / (sharpness * (2 * d - eta * sharpness))


def motion(sharpness: float, d: float, eta: float, tau: float) -> float:
    """Mean squared step 2 eta^2 tau^2 / (d (2 d - eta lambda)) at stationarity (paper, Prop. B.4)."""
    return 2 * eta**2 * tau**2 / (d * (2 * d - eta * sharpness))


def hovering_step(sharpness: float, d: float, eta: float, rho: float) -> float:
    """Length of a step of SAM's two-cycle, twice its amplitude: 2 eta rho lambda / (sqrt(d) (2 d - eta lambda)) (ours).

    This motion remains when the noise goes to zero, and it too falls with d.
    """
    return 2 * eta * rho * sharpness / (math.sqrt(d) * (2 * d - eta * sharpness))


@dataclass(frozen=True)
class Well:
    """One kind of well of the regenerative model."""

    sharpness: float  # curvature in every direction, >= 0
    weight: float  # nu, the probability that a cycle starts there


@dataclass(frozen=True)
class Regeneration:
    """Cycles of the regenerative model (paper, Prop. B.3): draw a well, start at its centre, run until |e| >= R."""

    wells: tuple[Well, ...]
    eta: float  # learning rate
    rho: float  # SAM's radius; 0 for no probe
    radius: float = 1.0  # R of every well

    def exit_times(self, sigma: float, cycles: int, limit: int = 10**6) -> tuple[Tensor, Tensor]:
        """The wells drawn in simulated cycles, and the steps until exit, ``[cycles]`` int64 each.

        ``sigma`` is the standard deviation of the noise in a coordinate; after ``limit`` steps a run counts as leaving.
        """
        generator = torch.Generator().manual_seed(0)
        weights = torch.tensor([well.weight for well in self.wells], dtype=torch.float64)
        drawn = torch.multinomial(weights, cycles, replacement=True, generator=generator)
        curvature = torch.tensor([well.sharpness for well in self.wells], dtype=torch.float64)[drawn].unsqueeze(1)
        start = torch.zeros(cycles, 2, dtype=torch.float64)
        times = torch.full((cycles,), limit)
        inside = torch.ones(cycles, dtype=torch.bool)
        iterates = walk(
            lambda e: 0.5 * (curvature * e.square()).sum(),
            start,
            eta=self.eta,
            rho=self.rho,
            metric=Replicas(Metric()),
            noise=lambda _: sigma * torch.randn(start.shape, generator=generator, dtype=torch.float64),
        )
        for step, e in zip(range(1, limit), iterates, strict=False):
            leaving = inside & (torch.linalg.vector_norm(e, dim=1) >= self.radius)
            times[leaving] = step
            inside &= ~leaving
            if not inside.any():
                break
        return drawn, times

    def occupation(self, sigma: float, cycles: int) -> list[float]:
        """Share of the steps spent in each kind of well."""
        drawn, times = self.exit_times(sigma, cycles)
        return [float(times[drawn == kind].sum() / times.sum()) for kind in range(len(self.wells))]
