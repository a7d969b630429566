"""Proposition B.1: how fast the metric gradient norm falls under a frozen metric (slopes as in docs/theory.md)."""

from __future__ import annotations

import pytest
import torch

from llqr_sam.engine.measurements.rounds import exponent as exponent_of
from llqr_sam.studies.theory.potholes.propositions import Regression, logistic, mean_gradient_norms, neuron

SCALES = torch.tensor([2.0, 1.0, 0.5, 0.25], dtype=torch.float64)
HORIZONS = [400, 800, 1600, 3200]


def _metric():
    """U with eigenvalues from 1/4 to 2 in a basis of its own."""
    basis = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    return basis @ torch.diag(SCALES) @ basis.mT


@pytest.mark.parametrize("kind", ["convex", "non-convex"])
def test_minibatch_gradients_average_to_the_full_one(kind):
    """All samples as one minibatch give the full gradient, and one sample a time its mean over samples."""
    problem = Regression.drawn(kind)
    theta = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    everything = torch.arange(64).unsqueeze(0)
    (whole,) = torch.autograd.grad(problem.minibatch_loss(theta, everything), theta)
    single = [torch.autograd.grad(problem.minibatch_loss(theta, i.view(1, 1)), theta)[0] for i in everything[0]]
    assert torch.allclose(whole, problem.gradient(theta), atol=1e-14)
    assert torch.allclose(torch.stack(single).mean(0), problem.gradient(theta), atol=1e-14)
    assert torch.stack(single).std(0).min() > 0.01  # and it is noise that stays


def test_one_problem_is_convex_and_the_other_is_not():
    margins = torch.linspace(-3, 3, 61, dtype=torch.float64)
    for loss, convex in ((logistic, True), (neuron, False)):
        second = loss(margins, torch.ones(61).double()).diff().diff()
        assert bool((second > -1e-12).all()) == convex


def test_what_the_rate_in_the_metric_says_of_other_norms():
    """B.1's last steps: g'Ug >= u_min |g|^2, and two metrics differ by at most |g|^2 |U - V|."""
    for _ in range(50):
        u, v, g = _metric(), _metric(), torch.randn(4, dtype=torch.float64)
        assert g @ u @ g >= (SCALES.min() - 1e-12) * g @ g
        assert abs(g @ u @ g - g @ v @ g) <= g @ g * torch.linalg.matrix_norm(u - v, 2) + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("exponent", [0.5, 0.25])
@pytest.mark.parametrize(("kind", "step", "replicas"), [("convex", 4.0, 32), ("non-convex", 1.0, 128)])
def test_rate(kind, step, replicas, exponent):
    """The exponent in T is -1/2 within 0.1, for either decay of the radius, on both problems."""
    options = {"step": step, "radius": 0.3, "exponent": exponent, "replicas": replicas}
    norms = mean_gradient_norms(Regression.drawn(kind), _metric(), HORIZONS, **options)
    assert exponent_of(HORIZONS, norms) == pytest.approx(-0.5, abs=0.1)


@pytest.mark.slow
def test_a_radius_that_does_not_decay_stalls():
    """The decay of rho is needed: with rho = 2 throughout, the norm of the non-convex problem levels off."""
    problem, metric = Regression.drawn("non-convex"), _metric()
    stuck, falling = (
        exponent_of(
            HORIZONS, mean_gradient_norms(problem, metric, HORIZONS, step=1.0, radius=2.0, exponent=p, replicas=64)
        )
        for p in (0.0, 0.5)
    )
    assert stuck > -0.3
    assert falling < -0.4
