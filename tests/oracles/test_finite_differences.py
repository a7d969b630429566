"""dJ/dU against central differences of J, both read off LLQR's public interface.

``objective_before`` is J at the stored U. One unclipped inner step without averaging moves U by -inner_lr dJ/dU.
"""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from llqr_sam import LLQR
from llqr_sam.methods.blocks.assembly import Structure
from tests.methods.networks import NETWORKS, mean_loss

RATE = 1e-3
STEP = 2e-5


def _metric(net, divergence, structure):
    return LLQR(
        net, divergence=divergence, structure=structure, damping=0.1, inner_steps=1, inner_lr=RATE, clip_norm=1e9, ema=0
    )


def _moved(state, direction, step):
    """The state with every factor moved along a direction."""
    factors = {n: {k: f + step * direction[n][k] for k, f in own.items()} for n, own in state["factors"].items()}
    return {**state, "factors": factors}


def _objective(metric, state, data):
    metric.load_state_dict(state)
    return metric.refresh(*data, mean_loss).objective_before


@pytest.mark.slow
@pytest.mark.parametrize("structure", get_args(Structure))
@pytest.mark.parametrize(
    ("name", "divergence"),
    [("mlp", "ngd"), ("mlp", "newton"), ("conv", "ngd"), ("conv", "newton"), ("transformer", "newton")],
)
def test_gradient_of_the_objective_in_the_metric(name, divergence, structure):
    """Along a random direction in all factors at once, and away from the identity."""
    net, *data = NETWORKS[name]()
    metric = _metric(net, divergence, structure)
    noise = {n: {k: torch.rand_like(f) - 0.5 for k, f in own.items()} for n, own in metric.named_factors().items()}
    state = _moved(metric.state_dict(), noise, 1.0)
    metric.load_state_dict(state)
    metric.refresh(*data, mean_loss)
    learned = metric.state_dict()["factors"]
    gradient = {n: {k: (f - learned[n][k]) / RATE for k, f in own.items()} for n, own in state["factors"].items()}
    direction = {n: {k: torch.randn_like(f) for k, f in own.items()} for n, own in gradient.items()}
    slope = sum(float((gradient[n][k] * v).sum()) for n, own in direction.items() for k, v in own.items())
    up = _objective(metric, _moved(state, direction, STEP), data)
    down = _objective(metric, _moved(state, direction, -STEP), data)
    assert slope == pytest.approx((up - down) / (2 * STEP), rel=1e-6)
