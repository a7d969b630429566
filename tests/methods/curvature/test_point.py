"""Where a network is differentiated: at its own parameters, in float32 at least."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llqr_sam import UnsupportedModuleError
from llqr_sam.methods.curvature.point import point_of
from tests.methods.networks import mean_loss


def test_the_coordinates_are_the_models_own_parameters():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net[0].bias.requires_grad_(False)
    point = point_of(net, torch.ones(2, 3))
    assert all(point.parameters[name] is p for name, p in net.named_parameters() if p.requires_grad)
    assert set(point.frozen) == {"0.bias"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_replaced_by_single(dtype):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to(dtype)
    point = point_of(net.eval(), {"input": torch.ones(2, 3, dtype=dtype)}, torch.zeros(2, dtype=dtype), mean_loss)
    tensors = [*point.parameters.values(), point.inputs["input"], point.targets]
    assert all(t.dtype == torch.float32 for t in tensors)
    assert point.outputs().dtype == torch.float32
    assert {p.dtype for p in net.parameters()} == {dtype}, "the network's own stay"
    assert point.outputs().requires_grad


def test_what_is_made_of_the_outputs_sees_the_same_parameters():
    """A loss that reads the network's weights reads those that are given to it."""
    net = nn.Linear(3, 2)
    point = point_of(net, torch.ones(2, 3))
    others = {name: torch.full_like(p, 2.0) for name, p in net.named_parameters()}
    weights = point.evaluated(lambda z: net.weight.detach().clone(), others)
    assert torch.equal(weights, others["weight"])
    assert net.weight is point.parameters["weight"]


def test_an_error_without_a_message_is_named_by_its_type():
    class Half(nn.Linear):
        def forward(self, x):
            if self.weight.dtype == torch.float32:
                raise RuntimeError
            return super().forward(x)

    with pytest.raises(UnsupportedModuleError, match="in float32, and there it fails: RuntimeError"):
        point_of(Half(2, 3).bfloat16(), torch.ones(4, 2)).outputs()
