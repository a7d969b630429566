"""A trace: cut in two, its transpose, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llqr_sam.methods.curvature.inference import differentiable_inference
from llqr_sam.methods.curvature.point import point_of
from llqr_sam.methods.curvature.trace import ForwardTrace, UntraceableError, signature
from tests.methods.networks import NETWORKS, mean_loss


def _points(net, x, y):
    return {"outputs": point_of(net, x), "gradient": point_of(net, x, targets=y, loss_fn=mean_loss)}


@pytest.mark.parametrize("kind", ["outputs", "gradient"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_pull_is_the_transpose_of_push(name, kind):
    """u' (J v) = v' (J' u), and J is the derivative of the values."""
    net, x, y = NETWORKS[name]()
    with differentiable_inference(net):
        point = _points(net, x, y)[kind]
        replayed = ForwardTrace(point).at(point)
        values = point.values(point.parameters)
    for value, expected in zip(replayed.values, values, strict=True):
        torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-12)
    v = {n: torch.randn_like(p) for n, p in point.parameters.items()}
    us = [torch.randn_like(z) for z in replayed.values]
    forward = sum((u * z).sum() for u, z in zip(us, replayed.push(v), strict=True))
    backward = sum((t * g).sum() for t, g in zip(v.values(), replayed.pull(us, v), strict=True))
    torch.testing.assert_close(forward, backward, rtol=1e-9, atol=1e-9)


def test_a_direction_of_zero_is_pushed_to_zero():
    net, x, y = NETWORKS["conv"]()
    with differentiable_inference(net):
        point = _points(net, x, y)["gradient"]
        replayed = ForwardTrace(point).at(point)
    for pushed in replayed.push({n: torch.zeros_like(p) for n, p in point.parameters.items()}):
        assert not pushed.any()


@pytest.mark.parametrize(
    "odd",
    [
        lambda x: x[x[:, 0] > 0],
        lambda x: x[torch.nonzero(x[:, 0] > 0).squeeze(1)],
        lambda x: torch.masked_select(x, x > 0).unsqueeze(1),
        lambda x: x.repeat_interleave(torch.arange(len(x)), 0),
    ],
)
def test_shapes_that_the_data_decide_are_refused(odd):
    class Odd(nn.Linear):
        def forward(self, x):
            return odd(super().forward(x))

    net = Odd(3, 2)
    with differentiable_inference(net), pytest.raises(UntraceableError, match="depends on the data"):
        ForwardTrace(point_of(net, torch.randn(6, 3)))


def test_inputs_that_are_no_tensors():
    """Plain values are part of what a trace is made for; other objects cannot be."""
    net = nn.Linear(3, 2)
    assert signature(point_of(net, (torch.ones(2, 3), 1))) != signature(point_of(net, (torch.ones(2, 3), 2)))
    with pytest.raises(UntraceableError, match="an input of type object"):
        signature(point_of(net, (torch.ones(2, 3), object())))
