"""The runner adds nothing to ``SharpnessAware``; metrics that are given."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from llqr_sam import Metric, SharpnessAware
from llqr_sam.studies.theory.potholes.simulate import FixedMetric, Replicas, trajectory, walk


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


MATRIX = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()


def test_a_diagonal_is_the_matrix_with_that_diagonal():
    v = {"a": torch.randn(3, 2).double(), "b": torch.randn(2).double()}
    diagonal = torch.tensor([2.0, 3.0]).double()
    assert all(
        torch.allclose(x, y)
        for x, y in zip(
            FixedMetric(diagonal).apply(v).values(), FixedMetric(torch.diag(diagonal)).apply(v).values(), strict=True
        )
    )


@pytest.mark.parametrize("norm", ["metric", "euclidean"])
@pytest.mark.parametrize("metric", [Metric(), FixedMetric(MATRIX)])
def test_each_replica_has_the_probe_it_would_have_alone(metric, norm):
    """Rows of several tensors, one of them zero, against ``Metric.probe`` on each row."""
    v = {"a": torch.randn(3, 2).double(), "b": torch.randn(2, 2).double()}
    v["b"][1] = 0
    together = Replicas(metric).probe(v, 0.3, norm)
    for name, x in v.items():
        for row, epsilon in zip(x, together[name], strict=True):
            assert torch.allclose(metric.probe({"row": row}, 0.3, norm)["row"], epsilon, rtol=1e-14, atol=0)


def test_replicas_count_rows_that_fall_back():
    indefinite = Replicas(FixedMetric(torch.tensor([1.0, -1.0]).double()))
    indefinite.probe({"a": torch.tensor([[2.0, 1.0], [1.0, 2.0], [0.0, 1.0]]).double()}, 0.1)
    assert indefinite.fallbacks == 2
