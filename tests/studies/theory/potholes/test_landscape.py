"""The sharp ring, and runs on it by the suite's own classes."""

from __future__ import annotations

import math

import pytest
import torch

from llqr_sam import LLQR, Metric, SharpnessAware
from llqr_sam.studies.theory.potholes import landscape as ring
from llqr_sam.studies.theory.potholes.landscape import (
    METHODS,
    NOTHING,
    Learning,
    Points,
    Setting,
    half_squared,
    run_together,
)


def _hessian(theta):
    return torch.autograd.functional.hessian(lambda x: ring.loss_at(x.unsqueeze(0)).sum(), theta)


def _radial(values):
    return torch.tensor([[math.cos(0.7), math.sin(0.7)]], dtype=torch.float64) * torch.tensor(
        values
    ).double().unsqueeze(1)


def test_the_stated_formula():
    """L = a r^2 (1 - q)^2 / (2 (1 + c q)^2), q = (r / R)^2p, in any direction."""
    r = torch.linspace(0, 8, 33, dtype=torch.float64)
    q = (r / 5) ** 8
    expected = 0.05 * r.square() * (1 - q).square() / (1 + 0.2 * q).square()
    for angle in (0.0, 0.7, 2.0):
        assert torch.allclose(ring.loss_at(ring.polar(r.tolist(), [angle] * 33)), expected, atol=1e-13)


def test_curvatures_of_basin_and_ring():
    """a I at the origin; at |theta| = R, loss 0, 4 p^2 a / (1 + c)^2 along the radius and 0 across it: 44 times a."""
    assert torch.allclose(_hessian(torch.zeros(2).double()), 0.1 * torch.eye(2).double())
    at_ring = torch.linalg.eigvalsh(_hessian(ring.polar([5.0], [0.7])[0]))
    assert torch.allclose(at_ring, torch.tensor([0.0, ring.SHARPNESS]).double(), atol=1e-9)
    assert pytest.approx(44.4, abs=0.1) == ring.SHARPNESS / ring.FLAT
    assert float(ring.loss_at(ring.polar([5.0], [0.7]))) < 1e-28


def test_the_crest_separates_them():
    top = ring.crest()
    inside, crest, outside = ring.loss_at(ring.polar([top - 0.05, top, top + 0.05], [0.0] * 3))
    assert crest > inside
    assert crest > outside
    assert ring.crest() == pytest.approx(3.73, abs=0.01)


def _alone(method, setting, start, steps, learning, noise=None):
    """One run written out, with the plain global norm."""
    points = Points([start])
    learned: LLQR | None = learning.metric(points) if method in ("llqr", "llqr_sam") else None
    base = torch.optim.SGD(points.parameters(), lr=setting.eta)
    rho = setting.rho if "sam" in method else 0.0
    optimizer = SharpnessAware(base, rho=rho, probe=learned or Metric(), transport=learned or Metric())
    visited = [start]
    for step in range(steps):
        if learned:
            learned.refresh_if_due(NOTHING, None, half_squared)

        def closure(step=step):
            optimizer.zero_grad()
            loss = half_squared(points(NOTHING), None)
            if noise is not None:
                loss = loss + (noise[step] * points.theta[0]).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        visited.append(points.theta[0].detach().clone())
    return torch.stack(visited)


@pytest.mark.parametrize("method", METHODS)
def test_runs_together_are_runs_alone(method):
    """Several settings and points in one optimizer and one LLQR, against each by itself, noise included."""
    settings = [Setting(0.3, 0.8), Setting(0.4, 0.3)]
    starts = [ring.polar([4.8, 5.2], [0.3, 1.0]), ring.polar([5.1], [2.0])]
    noise = 0.01 * torch.randn(12, 3, 2, dtype=torch.float64)
    learning = Learning(interval=2)
    together = run_together(method, settings, starts, 12, learning, list(noise))
    rows = [(settings[0], starts[0][:1]), (settings[0], starts[0][1:]), (settings[1], starts[1])]
    for i, (setting, start) in enumerate(rows):
        alone = _alone(method, setting, start, 12, learning, noise[:, i : i + 1])
        assert torch.allclose(together[:, i : i + 1], alone, rtol=0, atol=1e-9)


def test_dense_and_diagonal_learn_the_same_on_an_axis():
    """Where gradient and curvature lie on an axis there is nothing off the diagonal to learn."""
    start = ring.polar([5.2], [0.0])
    runs = [
        run_together("llqr_sam", [Setting(0.4, 1.0)], [start], 10, Learning(structure=structure))
        for structure in ("dense", "diagonal")
    ]
    assert torch.allclose(runs[0], runs[1], atol=1e-9)


def test_a_metric_learned_in_the_ring_sees_the_ring():
    """Against Assumption 4.1: twenty refreshes on the ring's wall bring U well below 1 along the radius."""
    points = Points([ring.polar([5.2], [0.0])])
    metric = Learning().metric(points)
    for _ in range(20):
        metric.refresh(NOTHING, None, half_squared)
    along, across = metric.named_factors()["theta.0"]["d"].flatten().tolist()
    assert along < 0.7
    assert across == pytest.approx(1.0, abs=1e-6)


def test_a_metric_learned_in_the_basin_is_its_average_geometry():
    """Assumption 4.1: 1 / a = 10 in both coordinates, and the points are where they were."""
    start = ring.polar([5.1, 4.9], [0.3, 2.0])
    points = Points([start])
    metric = Learning(history="basin").learn_in_the_basin(points)
    assert torch.allclose(metric.named_factors()["theta.0"]["d"].flatten(), torch.tensor(10.0).double(), rtol=0.02)
    assert torch.equal(points.everything(), start)


def test_a_diverging_run_does_not_stop_the_others():
    """A metric that cannot be refreshed stays as it was; with one run gone, the rest go on under the one they have."""
    starts = [ring.polar([5.1], [0.3]), ring.polar([5.1], [0.3])]
    settings = [Setting(0.3, 0.5), Setting(1e200, 0.5)]
    run = run_together("llqr_sam", settings, starts, 8)
    assert torch.isfinite(run[:, 0]).all()
    assert not torch.isfinite(run[-1, 1]).all()
