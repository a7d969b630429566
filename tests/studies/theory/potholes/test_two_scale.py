"""The two-scale model's formulas against runs of the suite's ``SharpnessAware`` on the quadratic, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from llqr_sam import Metric
from llqr_sam.studies.theory.potholes.simulate import FixedMetric, Replicas, trajectory, walk
from llqr_sam.studies.theory.potholes.two_scale import (
    TwoScale,
    amplitude,
    coordinate_step,
    cycle_multiplier,
    envelope,
    scalar_step,
)


def _rotation(d):
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0]


def _random(d, *, commuting):
    """Hbar with curvatures from 0.1 to 10 and a rank-two pothole; in Hbar's eigenbasis, or in one of its own."""
    basis = _rotation(d)
    average = basis @ torch.diag(torch.logspace(-1, 1, d, dtype=torch.float64)) @ basis.mT
    own = basis if commuting else _rotation(d)
    pothole = own[:, :2] @ torch.diag(torch.tensor([20.0, 5.0], dtype=torch.float64)) @ own[:, :2].mT
    return TwoScale((average + average.mT) / 2, (pothole + pothole.mT) / 2)


def _hover(sharpness, u, eta, rho, steps=400, start=0.01):
    """Runs of one coordinate: curvatures and metrics ``[B]`` -> the last two iterates ``[2, B]``."""
    curvature, scale = (torch.as_tensor(x, dtype=torch.float64).reshape(-1, 1) for x in (sharpness, u))

    class OnePerRow(Metric):
        def apply(self, v):
            return {name: x * scale for name, x in v.items()}

    iterates = walk(
        lambda z: 0.5 * (curvature * z.square()).sum(),
        torch.full_like(curvature, start),
        eta=eta,
        rho=rho,
        metric=Replicas(OnePerRow()),
    )
    return torch.stack(list(itertools.islice(iterates, steps))[-2:]).squeeze(2)


@pytest.mark.slow
@pytest.mark.parametrize("commuting", [True, False])
@pytest.mark.parametrize("factor", [0.1, 0.9, 1.5, 1.9])
def test_recursion(commuting, factor):
    """Eq. 3 and 11, step by step to 1e-12; also where eta mu > 1, and Hbar and Heps do not commute."""
    for seed in range(5):
        torch.manual_seed(seed)
        model = _random(5, commuting=commuting)
        eta = factor / float(torch.linalg.eigvalsh(model.whitened)[-1])
        path = trajectory(
            model.loss, 3 * torch.randn(5).double(), 40, eta=eta, rho=0.7, metric=FixedMetric(model.metric)
        )
        for e, following in itertools.pairwise(path):
            predicted = model.step(e, eta, 0.7)
            assert torch.linalg.vector_norm(predicted - following) <= 1e-12 * torch.linalg.vector_norm(e)


def test_the_recursion_stays_true_over_a_whole_run():
    """Forty steps from the start alone, to 1e-12."""
    model = _random(4, commuting=False)
    eta = 0.8 / float(torch.linalg.eigvalsh(model.whitened)[-1])
    path = trajectory(model.loss, 5 * torch.randn(4).double(), 40, eta=eta, rho=0.5, metric=FixedMetric(model.metric))
    e = path[0]
    for _ in range(40):
        e = model.step(e, eta, 0.5)
    assert torch.linalg.vector_norm(e - path[-1]) <= 1e-12 * torch.linalg.vector_norm(path[-1])


def test_whitened_form_without_commuting():
    """Eq. 10: the same run in y = Hbar^1/2 e, to 1e-12, and A's eigenvalues are mu where they commute."""
    model = _random(5, commuting=False)
    eta = 0.6 / float(torch.linalg.eigvalsh(model.whitened)[-1])
    path = trajectory(model.loss, 3 * torch.randn(5).double(), 40, eta=eta, rho=0.7, metric=FixedMetric(model.metric))
    for y, following in itertools.pairwise(path @ model.whitener):
        predicted = model.whitened_step(y, eta, 0.7)
        assert torch.linalg.vector_norm(predicted - following) <= 1e-12 * torch.linalg.vector_norm(y)
    commuting = _random(5, commuting=True)
    averaged, vectors = torch.linalg.eigh(commuting.average)
    mu = torch.diagonal(vectors.mT @ commuting.hessian @ vectors) / averaged
    assert torch.allclose(torch.linalg.eigvalsh(commuting.whitened), mu.sort().values, rtol=1e-12)


def test_coordinate_recursion():
    """Eq. 12, all eigendirections at once, to 1e-12."""
    model = _random(5, commuting=True)
    averaged, vectors = torch.linalg.eigh(model.average)
    perceived = torch.diagonal(vectors.mT @ model.hessian @ vectors) / averaged
    path = trajectory(model.loss, 3 * torch.randn(5).double(), 30, eta=0.005, rho=0.7, metric=FixedMetric(model.metric))
    for z, following in itertools.pairwise(path @ vectors):
        predicted = coordinate_step(z, perceived, averaged, 0.005, 0.7)
        assert torch.linalg.vector_norm(predicted - following) <= 1e-12 * torch.linalg.vector_norm(z)


@pytest.mark.parametrize(("perceived", "averaged"), [(3.0, 0.2), (40.0, 1.0), (7.0, 5.0)])
def test_scalar_recursion(perceived, averaged):
    """Eq. 4 and 13 along one eigendirection, from far enough that the probe's tiny constant is below 1e-12."""
    eta, metric = 1.2 / perceived, FixedMetric(torch.tensor([1 / averaged], dtype=torch.float64))
    path = trajectory(
        lambda z: 0.5 * perceived * averaged * z.square().sum(),
        torch.tensor([9.0], dtype=torch.float64),
        30,
        eta=eta,
        rho=2.0,
        metric=metric,
    )
    for z, following in itertools.pairwise(path[:, 0].tolist()):
        assert abs(scalar_step(z, perceived, averaged, eta, 2.0) - following) <= 1e-12 * max(abs(z), abs(following))


FACTORS = [0.02, 0.3, 0.7, 0.99, 1.0, 1.01, 1.5, 1.9, 1.97]


@pytest.mark.slow
@pytest.mark.parametrize(("eta", "rho"), [(0.0005, 0.01), (0.0005, 2.0), (0.005, 0.3), (0.05, 2.0)])
def test_two_cycle_amplitude(eta, rho):
    """Eq. 16 to 1e-6 over eta mu, lambdabar and lambda, on both sides of eta mu = 1, where the paper's a > 0 ends."""
    grid = [(x / eta, averaged) for x in FACTORS for averaged in (0.04, 1.0, 9.0)]
    sharpness = [mu * averaged for mu, averaged in grid]
    steps = 1500  # |a| = 0.98 at both ends
    before, after = _hover(sharpness, [1 / averaged for _, averaged in grid], eta, rho, steps)
    for i, (mu, averaged) in enumerate(grid):
        predicted = amplitude(mu, averaged, eta, rho)
        assert abs(float(after[i]) + float(before[i])) <= 1e-6 * predicted
        assert abs(abs(float(after[i])) - predicted) <= 1e-6 * predicted


def test_the_probe_fades_where_the_gradient_does():
    """Our one deviation from eq. 3: eps = rho U g / sqrt(g'Ug + 1e-12), so that a zero gradient has no probe."""
    for norm, share in ((1e-3, 1.0), (1e-6, 0.5**0.5), (0.0, 0.0)):
        start = torch.tensor([norm], dtype=torch.float64)
        following = trajectory(lambda z: 0.5 * z.square().sum(), start, 1, eta=0.1, rho=1.0)[1]
        assert float(start - following) == pytest.approx(0.1 * (norm + share), rel=1e-6)


def test_the_envelope_bounds_the_cycle_up_to_eta_mu_one_and_not_beyond():
    """Eq. 5 and 17: amplitude / envelope = x / (2 - x), x = eta mu: below 1 before x = 1, above beyond."""
    averaged, rho, eta = 0.25, 0.3, 0.1
    _, z = _hover([x / eta * averaged for x in FACTORS], [1 / averaged] * len(FACTORS), eta, rho, 1500)
    ratio = z.abs() / envelope(averaged, rho)
    assert torch.allclose(ratio, torch.tensor([x / (2 - x) for x in FACTORS], dtype=torch.float64), rtol=1e-6)
    assert [float(r) <= 1 + 1e-9 for r in ratio] == [x <= 1 for x in FACTORS]


def test_no_cycle_from_eta_mu_two():
    """At eta mu = 2 |z| grows by b a step, beyond it geometrically; without a probe 2 only fails to contract."""
    averaged, rho, eta, steps = 0.25, 0.3, 0.1, 50
    for x in (2.0, 2.2):
        _, z = _hover([x / eta * averaged], [1 / averaged], eta, rho, steps)
        expected = 0.01
        for _ in range(steps):
            expected = (x - 1) * expected + x * envelope(averaged, rho)
        assert abs(float(z.abs()) - expected) <= 1e-9 * expected
        assert amplitude(x / eta, averaged, eta, rho) == math.inf
    _, still = _hover([2.0 / eta * averaged], [1 / averaged], eta, 0.0, steps)
    assert abs(float(still.abs()) - 0.01) < 1e-12


def test_the_amplitude_does_depend_on_the_potholes_sharpness():
    """Only the envelope forgets lambda_eps: eight times the curvature at one eta makes a cycle 36 times as wide."""
    averaged, rho, eta = 0.25, 0.3, 0.1
    _, z = _hover([0.2 / eta * averaged, 1.6 / eta * averaged], [1 / averaged] * 2, eta, rho)
    blunt, sharp = z.abs().tolist()
    assert sharp / blunt == pytest.approx((1.6 / 0.4) / (0.2 / 1.8), rel=1e-6)


@pytest.mark.slow
def test_only_the_largest_perceived_sharpness_hovers():
    """In several dimensions every start ends in the two-cycle of the largest mu; the other coordinates die out."""
    averaged = torch.tensor([0.5, 4.0, 1.0], dtype=torch.float64)
    perceived = torch.tensor([9.0, 3.0, 1.5], dtype=torch.float64)
    loss, eta, rho = lambda z: 0.5 * (averaged * perceived * z.square()).sum(), 0.08, 0.4
    for seed in range(5):
        torch.manual_seed(seed)
        path = trajectory(loss, torch.randn(3).double(), 600, eta=eta, rho=rho, metric=FixedMetric(1 / averaged))
        assert path[-1, 1:].abs().max() < 1e-10
        assert float(path[-1, 0].abs()) == pytest.approx(amplitude(9.0, 0.5, eta, rho), rel=1e-6)


@pytest.mark.parametrize(("direction", "hovering"), [(9.0, 3.0), (3.0, 9.0), (8.0, 9.0)])
def test_stability_of_a_cycle(direction, hovering):
    """A displacement of 1e-8 off a two-cycle grows or shrinks by our multiplier at each step."""
    eta, rho = 0.1, 0.4
    perceived = torch.tensor([hovering, direction], dtype=torch.float64)
    start = torch.tensor([amplitude(hovering, 1.0, eta, rho), 1e-8], dtype=torch.float64)
    path = trajectory(lambda z: 0.5 * (perceived * z.square()).sum(), start, 3, eta=eta, rho=rho)
    predicted = cycle_multiplier(direction, hovering, eta)
    for z, following in itertools.pairwise(path[:, 1].tolist()):
        assert following / z == pytest.approx(predicted, rel=1e-4)
    assert (abs(predicted) < 1) == (direction < hovering)


def test_vanilla_sam():
    """Eq. 19 and 20: U = I hovers at eta rho lambda / (2 - eta lambda), with the envelope rho whatever lambda."""
    eta, rho = 0.1, 0.3
    sharpness = [2.0, 9.0, 10.0, 15.0]
    _, z = _hover(sharpness, [1.0] * 4, eta, rho)
    for found, curvature in zip(z.abs().tolist(), sharpness, strict=True):
        assert found == pytest.approx(amplitude(curvature, 1.0, eta, rho), rel=1e-6)
    assert float(z[2].abs()) == pytest.approx(rho, rel=1e-6)  # eta lambda = 1 attains it


@pytest.mark.slow
@pytest.mark.parametrize(("averaged", "added"), [(0.04, 1.0), (0.25, 3.0), (4.0, 60.0)])
def test_amplification_is_by_the_average_curvature(averaged, added):
    """Corollary 4.2 is right, B.2's print is not.

    With each method at its own rate, 1 / mu or 1 / lambda, both hover exactly at their envelopes, and the ratio is
    lambdabar^-1/2, not lambda_eps^-1/2.
    """
    sharpness, rho = averaged + added, 0.3
    _, with_metric = _hover([sharpness], [1 / averaged], averaged / sharpness, rho)
    _, without = _hover([sharpness], [1.0], 1 / sharpness, rho)
    ratio = float(with_metric.abs() / without.abs())
    assert ratio == pytest.approx(averaged**-0.5, rel=1e-6)
    assert abs(ratio - added**-0.5) > 0.1 * ratio
    assert (ratio > 1) == (averaged < 1)  # above lambdabar = 1 it is a reduction


def test_at_one_learning_rate_the_amplitudes_ratio_is_another():
    """At the same eta the cycles differ by lambdabar^-3/2 (2 - eta lambda) / (2 - eta mu)."""
    averaged, sharpness, eta, rho = 0.25, 4.0, 0.1, 0.3
    _, with_metric = _hover([sharpness], [1 / averaged], eta, rho)
    _, without = _hover([sharpness], [1.0], eta, rho)
    predicted = averaged**-1.5 * (2 - eta * sharpness) / (2 - eta * sharpness / averaged)
    assert float(with_metric.abs() / without.abs()) == pytest.approx(predicted, rel=1e-6)


def test_the_amplification_depends_on_the_units_of_the_loss():
    """Loss times 100 divides the ratio by 10 at one rho, which is a length under SAM and a root of loss under U."""
    ratios = []
    for scale in (1.0, 100.0):
        averaged, sharpness, rho = 0.25 * scale, 4.0 * scale, 0.3
        _, with_metric = _hover([sharpness], [1 / averaged], averaged / sharpness, rho)
        _, without = _hover([sharpness], [1.0], 1 / sharpness, rho)
        ratios.append(float(with_metric.abs() / without.abs()))
    assert ratios[0] / ratios[1] == pytest.approx(10.0, rel=1e-6)


def test_stable_rates():
    """B.6: SAM needs eta lambda < 2, LLQR+SAM eta mu < 2, whatever the conditioning of Hbar."""
    averaged = torch.logspace(-2, 2, 3, dtype=torch.float64)
    loss = lambda z: 0.5 * (1.5 * averaged * z.square()).sum()  # noqa: E731
    start = torch.ones(3).double()
    with_metric = trajectory(loss, start, 200, eta=1.3, rho=0.1, metric=FixedMetric(1 / averaged))  # eta mu = 1.95
    assert with_metric[-1].norm() < 50
    assert trajectory(loss, start, 200, eta=1.9 / 150, rho=0.1)[-1].norm() < 50
    assert trajectory(loss, start, 200, eta=2.1 / 150, rho=0.1)[-1].norm() > 1e6
