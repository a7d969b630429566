"""Gradient noise: which wells are inhabited, and how much an iterate moves (paper, Propositions B.3 and B.4).

Notation: d is the metric's denominator, U = 1/d; eta the learning rate; tau or sigma the standard deviation of the
gradient noise in a coordinate; R the radius of a well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llqr_sam.methods.metrics import Metric
from llqr_sam.studies.theory.potholes.simulate import Replicas, walk


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
        """Simulate cycles, all at once.

        Args:
            sigma: Standard deviation of the gradient noise in a coordinate.
            cycles: Number of cycles.
            limit: Steps after which runs that are still inside count as leaving.

        Returns:
            The wells drawn, and the steps until exit, ``[cycles]`` int64 each.
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
