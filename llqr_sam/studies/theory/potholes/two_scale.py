"""The two-scale quadratic model: LLQR+SAM around a minimum, in closed form (paper, section 4 and appendix B).

Notation: H = Hbar + Heps is the curvature, average plus pothole; U = Hbar^-1 is the metric (Assumption 4.1), which does
not see the pothole. In a shared eigendirection ``averaged`` is lambdabar, lambda = lambdabar + lambda_eps the sharpness
and ``perceived`` is mu = lambda / lambdabar. SAM without a metric is U = I: averaged = 1, perceived = lambda.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class TwoScale:
    """The loss 1/2 e' (Hbar + Heps) e (paper, eq. 2)."""

    average: Tensor  # Hbar [d, d], symmetric positive definite
    pothole: Tensor  # Heps [d, d], symmetric positive semidefinite; it need not commute with Hbar

    @cached_property
    def hessian(self) -> Tensor:
        """H ``[d, d]``."""
        return self.average + self.pothole

    @cached_property
    def metric(self) -> Tensor:
        """U = Hbar^-1 ``[d, d]``."""
        return self._power(-1.0)

    @cached_property
    def whitener(self) -> Tensor:
        """Hbar^1/2 ``[d, d]``: y = Hbar^1/2 e."""
        return self._power(0.5)

    @cached_property
    def whitened(self) -> Tensor:
        """A = Hbar^-1/2 H Hbar^-1/2 ``[d, d]``; its eigenvalues are the perceived sharpnesses mu."""
        root = self._power(-0.5)
        return root @ self.hessian @ root

    def loss(self, e: Tensor) -> Tensor:
        """1/2 e' H e, summed over rows; e ``[d]`` or ``[B, d]``."""
        return 0.5 * (e * (e @ self.hessian)).sum()

    def step(self, e: Tensor, eta: float, rho: float) -> Tensor:
        """One step of LLQR+SAM from e ``[d]``, not zero (paper, eq. 3 and 11)."""
        g = self.hessian @ e
        ug = self.metric @ g
        kick: Tensor = self.metric @ (self.hessian @ ug) / torch.sqrt(g @ ug)
        return e - eta * ug - eta * rho * kick

    def whitened_step(self, y: Tensor, eta: float, rho: float) -> Tensor:
        """The same step in y = Hbar^1/2 e (paper, eq. 10)."""
        ay = self.whitened @ y
        kick: Tensor = self.whitened @ ay / torch.linalg.vector_norm(ay)
        return y - eta * ay - eta * rho * kick

    def _power(self, exponent: float) -> Tensor:
        values, vectors = torch.linalg.eigh(self.average)
        power: Tensor = (vectors * values.pow(exponent)) @ vectors.mT
        return power


def coordinate_step(z: Tensor, perceived: Tensor, averaged: Tensor, eta: float, rho: float) -> Tensor:
    """All eigendirections together, in the commuting case (paper, eq. 12); every argument but the rates is ``[d]``."""
    norm = torch.sqrt((perceived.square() * averaged * z.square()).sum())
    return (1 - eta * perceived) * z - eta * rho * perceived.square() / norm * z


def scalar_step(z: float, perceived: float, averaged: float, eta: float, rho: float) -> float:
    """One eigendirection alone (paper, eq. 4 and 13)."""
    return (1 - eta * perceived) * z - eta * rho * perceived / math.sqrt(averaged) * math.copysign(1.0, z)


def envelope(averaged: float, rho: float) -> float:
    """The hovering envelope rho / sqrt(lambdabar) (paper, eq. 5 and 17); it is the length of SAM's probe."""
    return rho / math.sqrt(averaged)


def amplitude(perceived: float, averaged: float, eta: float, rho: float) -> float:
    """Amplitude of the attracting two-cycle, eta rho mu / ((2 - eta mu) sqrt(lambdabar)) (paper, eq. 16).

    The paper proves it for eta mu < 1; it holds for eta mu < 2, and is infinite from there on (docs/theory.md).
    """
    contraction = eta * perceived
    return contraction / (2 - contraction) * envelope(averaged, rho) if contraction < 2 else math.inf


def reach(perceived: float, averaged: float, eta: float, rho: float) -> float:
    """Farthest point from a minimum where a run that starts beside it evaluates a gradient.

    The probe's length plus the largest distance of the run: the first kick, eta mu times the envelope, while
    eta mu <= 1, and the two-cycle's amplitude beyond. A pothole of a larger radius keeps the run, a smaller one loses
    it (docs/theory.md); the paper's eq. 6 compares the envelope alone.
    """
    contraction = eta * perceived
    largest = contraction * envelope(averaged, rho) if contraction <= 1 else amplitude(perceived, averaged, eta, rho)
    return envelope(averaged, rho) + largest


def cycle_multiplier(direction: float, hovering: float, eta: float) -> float:
    """Factor a step puts on a small displacement with perceived sharpness ``direction`` off another one's two-cycle.

    With q = direction / hovering it is 1 - x q - (2 - x) q^2, x = eta * hovering: inside (-1, 1) for q < 1 and below -1
    for q > 1, so that only the two-cycle of the largest mu attracts (ours; not in the paper).
    """
    x, q = eta * hovering, direction / hovering
    return 1 - x * q - (2 - x) * q * q
