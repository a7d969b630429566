"""Curvature in chunks is the curvature of the whole."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from llqr_sam.methods.chunks import ChunkedCurvature
from llqr_sam.methods.curvature import FisherCurvature, HessianCurvature
from llqr_sam.methods.jacobian import DoubleBackward
from llqr_sam.methods.likelihoods import Categorical
from tests.methods.networks import NETWORKS, mean_loss


def _at(net, kind):
    if kind == "newton":
        return lambda x, y: HessianCurvature(net, x, y, mean_loss)
    reduction = kind.removeprefix("ngd_")
    return lambda x, y: FisherCurvature(net, x, y, mean_loss, Categorical(), reduction, DoubleBackward())


@pytest.mark.parametrize("name", ["mlp", "conv", "transformer"])
@pytest.mark.parametrize("kind", ["ngd_sum", "ngd_mean", "newton"])
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 100])
def test_equals_the_whole(name, kind, chunk_size):
    """Chunks that divide the minibatch, that do not, and one that holds it all."""
    net, x, y = NETWORKS[name]()
    whole = _at(net, kind)(x, y)
    chunked = ChunkedCurvature(_at(net, kind), x, y, chunk_size, summed=kind == "ngd_sum")
    v = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    expected = whole.product(v)
    for n, h in chunked.product(v).items():
        torch.testing.assert_close(h, expected[n], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(chunked.gradient[n], whole.gradient[n], rtol=1e-10, atol=1e-12)


def test_nested_inputs_are_split_and_the_rest_is_passed_on():
    class Scaled(torch.nn.Linear):
        def forward(self, x, scale):
            return super().forward(x) * scale

    net = Scaled(3, 5).double()
    inputs = {"x": torch.randn(7, 3).double(), "scale": torch.tensor(2.0).double()}
    y = torch.randint(0, 5, (7,))
    at = partial(HessianCurvature, net, loss_fn=mean_loss)
    chunked = ChunkedCurvature(lambda i, t: at(inputs=i, targets=t), inputs, y, 3, summed=False)
    whole = at(inputs=inputs, targets=y)
    torch.testing.assert_close(chunked.gradient["weight"], whole.gradient["weight"])
