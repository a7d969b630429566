"""The runner adds nothing to ``SharpnessAware``."""

from __future__ import annotations

import math

import torch
from torch import nn

from llqr_sam import SharpnessAware
from llqr_sam.studies.theory.potholes.fixed import FixedMetric
from llqr_sam.studies.theory.potholes.simulate import trajectory, walk


def _quartic(theta):
    return 0.25 * theta.pow(4).sum() + theta.prod()


def test_a_trajectory_is_the_optimizers_own_loop():
    start, matrix = torch.tensor([1.0, -2.0]).double(), torch.tensor([[0.3, 0.1], [0.1, 0.2]]).double()
    theta = nn.Parameter(start.clone())
    metric = FixedMetric(matrix)
    optimizer = SharpnessAware(torch.optim.SGD([theta], lr=0.1), rho=0.2, probe=metric, transport=metric)
    expected = [start]
    for _ in range(5):

        def closure():
            optimizer.zero_grad()
            loss = _quartic(theta)
            loss.backward()
            return loss

        optimizer.step(closure)
        expected.append(theta.detach().clone())
    found = trajectory(_quartic, start, 5, eta=0.1, rho=0.2, metric=FixedMetric(matrix))
    assert torch.equal(found, torch.stack(expected))


def test_schedules_and_noise_are_those_of_the_step():
    """On a flat loss without a probe, a step is -eta_t xi_t."""
    noise = torch.arange(4).double() + 1
    iterates = walk(
        lambda theta: 0 * theta.sum(),
        torch.zeros(1).double(),
        eta=lambda t: 1 / (t + 1),
        rho=0.0,
        noise=lambda t: noise[t],
    )
    assert [float(next(iterates)) for _ in range(4)] == [-1.0, -2.0, -3.0, -4.0]


def test_the_radius_follows_its_schedule():
    """On lambda z^2 / 2 a step from z > 0 is -eta lambda (z + rho_t)."""
    iterates = walk(lambda z: z.square().sum(), torch.ones(1).double(), eta=0.1, rho=lambda t: float(t))
    z = 1.0
    for t in range(4):
        z -= 0.2 * (z + math.copysign(t, z))
        assert abs(float(next(iterates)) - z) < 1e-9
