"""Which curvature a divergence means, whole or in chunks, through LLQR."""

from __future__ import annotations

import pytest
import torch

from llqr_sam import LLQR
from llqr_sam.methods.curvature.products import Fisher, Hessian
from tests.methods.networks import NETWORKS, mean_loss

DIVERGENCES = ["ngd", "newton"]


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_chunks_learn_the_same_metric(divergence, structure, reduction):
    net, x, y = NETWORKS["conv"]()
    options = {"divergence": divergence, "structure": structure, "reduction": reduction, "ema": 0.0}
    whole, chunked = LLQR(net, **options), LLQR(net, **options, chunk_size=4)
    for metric in (whole, chunked):
        metric.refresh(x, y, mean_loss)
    for name, factors in whole.named_factors().items():
        for key, factor in factors.items():
            torch.testing.assert_close(chunked.named_factors()[name][key], factor, rtol=1e-9, atol=1e-11)


def test_each_divergence_has_its_curvature():
    net, _, _ = NETWORKS["mlp"]()
    assert isinstance(LLQR(net)._curvature.matrix, Fisher)
    assert isinstance(LLQR(net, divergence="newton")._curvature.matrix, Hessian)


def test_a_network_is_traced_once_for_all_refreshes():
    net, x, y = NETWORKS["conv"]()
    metric = LLQR(net, inner_steps=1)
    traces = set()
    for _ in range(3):
        metric.refresh(torch.randn_like(x), y, mean_loss)
        traces.update(metric._curvature.matrix.cache.traces.values())
    assert len(traces) == 1


def test_bad_chunk_size_is_named():
    with pytest.raises(ValueError, match="chunk_size=0 must be >= 1"):
        LLQR(torch.nn.Linear(2, 2), chunk_size=0)
