"""J v by double backward and by replay, and the check between them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llqr_sam.methods.curvature.inference import differentiable_inference
from llqr_sam.methods.curvature.jacobian import DoubleBackward, JacobianReplay, pull
from llqr_sam.methods.curvature.point import point_of
from tests.methods.networks import NETWORKS


@pytest.mark.parametrize("name", list(NETWORKS))
def test_both_ways_are_the_jacobian(name):
    net, x, _ = NETWORKS[name]()
    with differentiable_inference(net):
        point = point_of(net, x)
        outputs = point.outputs()
        pushes = DoubleBackward()(point, outputs), JacobianReplay()(point, outputs)
    v = {n: torch.randn_like(p) for n, p in point.parameters.items()}
    u = torch.randn_like(outputs)
    expected = sum((t * g).sum() for t, g in zip(v.values(), pull(point, outputs, u), strict=True))
    for push in pushes:
        torch.testing.assert_close((push(v)[0] * u).sum(), expected, rtol=1e-9, atol=1e-9)


class Small(nn.Module):
    """A parameter with a millionth of the derivative, which forward mode does not see."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.bias = nn.Parameter(torch.zeros(2))
        self.held = [self.bias]

    def forward(self, x):
        return self.linear(x) + 1e-6 * self.held[0]


def test_a_parameter_of_little_weight_is_compared_too():
    net = Small().double()
    x, replay = torch.randn(4, 3, dtype=torch.float64), JacobianReplay()
    with differentiable_inference(net):
        point = point_of(net, x)
        outputs = point.outputs()
        push = replay(point, outputs)
    assert replay.refusal == "the trace has other values or derivatives than the network"
    v = {n: torch.zeros_like(p) for n, p in point.parameters.items()}
    v["bias"] += 1
    torch.testing.assert_close(push(v)[0], torch.full_like(outputs, 1e-6))
