"""A network that cannot be differentiated twice: the module is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from llqr_sam import LLQR
from llqr_sam.methods.diagnosis import UnsupportedModuleError
from tests.methods.networks import NETWORKS, mean_loss


class _Fused(torch.autograd.Function):
    """A square whose backward pass is a kernel of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, u):
        (x,) = ctx.saved_tensors
        return 2 * x * u


class FusedSquare(nn.Module):
    def forward(self, x):
        return _Fused.apply(x)


@pytest.mark.parametrize("divergence", ["ngd", "newton"])
def test_the_module_is_named(divergence):
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh(), FusedSquare()), nn.Linear(4, 5))
    metric = LLQR(net, divergence=divergence)
    with pytest.raises(UnsupportedModuleError, match=r"module 1\.1 \(FusedSquare\) has none"):
        metric.refresh(torch.randn(6, 3), torch.randint(0, 5, (6,)), mean_loss)


def test_other_errors_pass_unchanged():
    net, _, y = NETWORKS["mlp"]()
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        LLQR(net).refresh(torch.randn(12, 7, dtype=torch.float64), y, mean_loss)
    assert not isinstance(caught.value, UnsupportedModuleError)


def test_a_good_network_is_left_alone():
    """No hook stays behind, and a normal refresh never pays for the search."""
    net, x, y = NETWORKS["conv"]()
    LLQR(net, inner_steps=1).refresh(x, y, mean_loss)
    assert not any(module._forward_hooks for module in net.modules())
