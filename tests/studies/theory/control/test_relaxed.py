"""J(U) and dJ/dU by rollout against LLQR itself, and the plain writing of U against the stacked one."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from llqr_sam import LLQR
from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.methods.blocks.layout import layout
from llqr_sam.studies.theory.control.rollout import apply_metric, relaxed_objective
from llqr_sam.studies.theory.control.stages import layerwise_lqr
from tests.studies.theory.control.networks import CHAINS, mean_loss, randomised

STRUCTURES = get_args(Structure)


def _random_metric(net, **options):
    """U away from the identity; one unclipped inner step moves it by -inner_lr dJ/dU."""
    metric = LLQR(net, inner_steps=1, inner_momentum=0.0, clip_norm=1e9, ema=0.0, inner_lr=1e-2, **options)
    randomised(metric.named_factors())
    return metric


@pytest.mark.slow
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("divergence", ["ngd", "newton"])
@pytest.mark.parametrize("name", list(CHAINS))
def test_objective_and_gradient_equal_the_layerwise_rollout(name, divergence, structure):
    """Eliminating the dynamics changes nothing: J(U) and dJ/dU are the rollout's, to 1e-10 (docs/lqr_identity.md)."""
    net, x, y = CHAINS[name]()
    metric = _random_metric(net, divergence=divergence, structure=structure)
    before = {n: {k: f.clone() for k, f in own.items()} for n, own in metric.named_factors().items()}
    problem = layerwise_lqr(net, x, y, mean_loss, divergence=divergence)
    cost, gradient = relaxed_objective(problem, layout(net)[0], before)
    report = metric.refresh(x, y, mean_loss)
    assert report.objective_before == pytest.approx(float(cost), rel=1e-10)
    assert {n: set(own) for n, own in gradient.items()} == {n: set(own) for n, own in before.items()}
    moved = [(before[n][k] - f) / 1e-2 for n, own in metric.named_factors().items() for k, f in own.items()]
    expected = [gradient[n][k] for n, own in metric.named_factors().items() for k in own]
    error = torch.cat([(m - e).reshape(-1) for m, e in zip(moved, expected, strict=True)]).norm()
    assert error <= 1e-10 * torch.cat([e.reshape(-1) for e in expected]).norm()


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", list(CHAINS))
def test_plain_and_stacked_metric_agree(name, structure):
    net, _, _ = CHAINS[name]()
    metric = _random_metric(net, structure=structure)
    v = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    expected = metric.apply(v)
    for n, x in apply_metric(layout(net)[0], metric.named_factors(), v).items():
        torch.testing.assert_close(x, expected[n], rtol=1e-12, atol=1e-12)
