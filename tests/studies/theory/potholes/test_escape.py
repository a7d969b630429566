"""The escape criterion, eq. 6 and 18, against runs in a well cut out of a slope."""

from __future__ import annotations

import pytest
import torch

from llqr_sam.studies.theory.potholes.propositions import CutPothole
from llqr_sam.studies.theory.potholes.two_scale import envelope, reach

AVERAGED, RHO = 0.25, 0.3
FACTORS = [0.1, 0.3, 0.5, 0.9, 1.0, 1.2, 1.6, 1.9]


def _escaped(factor, multiples, *, sharpness=5.0, averaged=AVERAGED, metric=True):
    perceived = sharpness / averaged if metric else sharpness
    eta = factor / perceived
    farthest = reach(perceived, averaged if metric else 1.0, eta, RHO)
    radii = farthest * torch.tensor(multiples, dtype=torch.float64).unsqueeze(1)
    pothole = CutPothole(sharpness, averaged, radii, centre=100 * farthest)
    return pothole.escaped(eta=eta, rho=RHO, steps=600, metric=metric).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("metric", [True, False])
@pytest.mark.parametrize("factor", FACTORS)
def test_a_run_stays_where_no_gradient_is_taken_outside(factor, metric):
    """Wells 1 % wider than the farthest probe keep it; 10 % or more narrower ones lose it."""
    escaped = _escaped(factor, [0.5, 0.7, 0.8, 0.9, 1.01, 1.1, 2.0], metric=metric)
    assert escaped == [True] * 4 + [False] * 3


@pytest.mark.slow
@pytest.mark.parametrize("factor", FACTORS)
def test_the_papers_criterion_is_sufficient_and_not_necessary(factor):
    """rho lambdabar^-1/2 > r loses the run; so does up to 1 + eta mu, or 2 / (2 - eta mu), times as wide a well."""
    perceived = 5.0 / AVERAGED
    farthest = reach(perceived, AVERAGED, factor / perceived, RHO)
    papers = envelope(AVERAGED, RHO) / farthest
    assert papers == pytest.approx(1 / max(1 + factor, 2 / (2 - factor)))
    assert _escaped(factor, [0.5 * papers, 0.95 * papers]) == [True, True]
    if factor >= 0.3:  # at 0.1 the two differ by a tenth, half of which is lost or kept by luck
        assert _escaped(factor, [1.02 * papers, 0.97]) == [True, True]


def test_the_threshold_does_not_depend_on_the_sharpness_at_one_eta_mu():
    for sharpness in (1.0, 5.0, 25.0):
        assert _escaped(0.5, [0.9, 1.01], sharpness=sharpness) == [True, False]
