"""Leaving a pothole: a well cut out of a slope, in one dimension, and which radius keeps a run (paper, eq. 6 and 18).

Notation: inside |z| < r the gradient is lambda z; outside it is the average landscape's, lambdabar (z - c), whose
minimum c is far away. U = 1 / lambdabar everywhere: it does not see the pothole (Assumption 4.1).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from llqr_sam.methods.metrics import Metric
from llqr_sam.studies.theory.potholes.simulate import FixedMetric, Replicas, walk


@dataclass(frozen=True)
class CutPothole:
    """Potholes of several radii, one per row."""

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
