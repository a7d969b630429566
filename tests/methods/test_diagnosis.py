"""A network that cannot be differentiated twice: the module is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from llqr_sam import LLQR
from llqr_sam.methods.diagnosis import UnsupportedModuleError, explained
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


FULL = "CUDA out of memory."


class Full(nn.Linear):
    """A layer that the device has no memory for when it is called the ``failing``-th time."""

    calls, failing = 0, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.failing:
            raise torch.OutOfMemoryError(FULL)
        return super().forward(x)


@pytest.mark.parametrize(("divergence", "calls"), [("ngd", 2), ("newton", 3)])
def test_a_full_device_is_no_missing_derivative(divergence, calls):
    """Whichever forward pass fails, the last of them the trace's: torch's own error, and the next refresh replays."""
    net, x, y = nn.Sequential(nn.Linear(3, 4), Full(4, 5)), torch.randn(6, 3), torch.randint(0, 5, (6,))
    for failing in range(1, calls + 1):
        metric = LLQR(net, divergence=divergence, inner_steps=1)
        net[1].calls, net[1].failing = 0, failing
        with pytest.raises(torch.OutOfMemoryError, match=FULL):
            metric.refresh(x, y, mean_loss)
        assert metric.refresh(x, y, mean_loss).accepted
        replays = [metric._curvature._replay, metric._curvature._hessian_replay._replay]
        assert [replay.trace is not None for replay in replays] == [divergence == "ngd", divergence == "newton"]


class _FullBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, u):
        raise torch.OutOfMemoryError(FULL)


class FullBackward(nn.Module):
    def forward(self, x):
        return _FullBackward.apply(x)


@pytest.mark.parametrize("full", [Full, FullBackward])
def test_a_full_device_during_the_search_names_no_module(full):
    layer = Full(4, 5) if full is Full else FullBackward()
    layer.failing = 1
    net, x = nn.Sequential(nn.Linear(3, 4), layer), torch.randn(6, 3)
    with pytest.raises(RuntimeError, match="a reason") as caught, explained(net, x):
        raise RuntimeError("a reason")
    assert not isinstance(caught.value, UnsupportedModuleError)


def test_the_search_leaves_the_network_as_it_was():
    """Its forward pass is one of a refresh: no batch-norm statistics, no dropout, the caller's modes."""
    net, x, _ = NETWORKS["conv"]()
    net.train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with pytest.raises(RuntimeError, match="a reason"), explained(net, x):
        raise RuntimeError("a reason")
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())
