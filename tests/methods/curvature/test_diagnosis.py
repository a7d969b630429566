"""A network that cannot be differentiated twice: the module is named."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from llqr_sam import LLQR, UnsupportedModuleError
from llqr_sam.methods.curvature import products
from llqr_sam.methods.curvature.diagnosis import explained, require_adjoint
from llqr_sam.methods.curvature.point import point_of
from tests.methods.networks import NETWORKS, mean_loss


class _Square(torch.autograd.Function):
    """What the squares below have in common: their backward passes differ."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x


class _Fused(_Square):
    """A square whose backward pass is a kernel of its own."""

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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript is
def test_the_module_is_named_beside_scripted_ones():
    """They refuse hooks of their own, and the error named nothing."""
    net = nn.Sequential(nn.Linear(3, 4), torch.jit.script(nn.Tanh()), FusedSquare())
    with pytest.raises(UnsupportedModuleError, match=r"module 2 \(FusedSquare\) has none"):
        LLQR(net).refresh(torch.randn(6, 3), torch.randint(0, 4, (6,)), mean_loss)


class _Raw(_Square):
    """A square whose backward pass is a kernel that autograd does not see, and that says nothing of it."""

    @staticmethod
    def backward(ctx, u):
        return 2 * ctx.saved_tensors[0].detach() * u.detach()


class RawSquare(nn.Module):
    def forward(self, x):
        return _Raw.apply(x)


class RawBlock(nn.Module):
    """A kernel between two layers, as in most attention blocks."""

    def __init__(self):
        super().__init__()
        self.query, self.out = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.out(_Raw.apply(self.query(x)))


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("divergence", ["ngd", "newton"])
@pytest.mark.parametrize(
    ("odd", "name"), [(RawSquare, r"1 \(RawSquare\) has none"), (RawBlock, r"1 \(RawBlock\), in its own forward")]
)
def test_a_backward_pass_outside_autograd_is_named(odd, name, divergence, chunk_size):
    """Autograd itself says nothing: the products were wrong by 16 % and 58 %, and U was learned from them."""
    net = nn.Sequential(nn.Linear(3, 4), odd(), nn.Linear(4, 5))
    metric = LLQR(net, divergence=divergence, chunk_size=chunk_size)
    with pytest.raises(UnsupportedModuleError, match=rf"module {name}.*outside autograd"):
        metric.refresh(torch.randn(6, 3), torch.randint(0, 5, (6,)), mean_loss)


@torch.library.custom_op("llqr_sam_tests::square", mutates_args=())
def _square(x: torch.Tensor) -> torch.Tensor:
    return x * x


@torch.library.custom_op("llqr_sam_tests::square_backward", mutates_args=())
def _square_backward(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return 2 * x * u


_square.register_autograd(
    lambda ctx, u: _square_backward(*ctx.saved_tensors, u),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


class SquareAndMore(nn.Module):
    def forward(self, x):
        return {"square": [_square(x)], "nothing": None}


class Around(nn.Module):
    """The layer called by keyword, its result nested."""

    def __init__(self):
        super().__init__()
        self.first, self.odd, self.last = nn.Linear(3, 4), SquareAndMore(), nn.Linear(4, 5)

    def forward(self, x):
        return self.last(self.odd(x=self.first(x))["square"][0])


class Distances(nn.Module):
    def __init__(self):
        super().__init__()
        self.points, self.last = nn.Parameter(torch.randn(7, 3)), nn.Linear(7, 5)

    def forward(self, x):
        return self.last(torch.cdist(x, self.points, p=3.0))


@pytest.mark.parametrize("divergence", ["ngd", "newton"])
@pytest.mark.parametrize(
    ("net", "name"),
    [
        (Around, r"odd \(SquareAndMore\) has none"),
        (Distances, r"\(the model\) \(Distances\), in its own forward, has none"),
    ],
)
def test_whatever_module_holds_the_operation(net, name, divergence):
    metric = LLQR(net(), divergence=divergence)
    with pytest.raises(UnsupportedModuleError, match=f"module {name}.*plain differentiable operations"):
        metric.refresh(torch.randn(6, 3).clamp(-2, 2), torch.randint(0, 5, (6,)), mean_loss)


def _ctc(z, y):
    lengths = torch.full((3,), 4)
    return nn.functional.ctc_loss(z.log_softmax(-1), y, torch.full((3,), 10), lengths)


@pytest.mark.parametrize("loss_fn", [_ctc, lambda z, y: _Raw.apply(z).mean()])
def test_the_loss_is_named(loss_fn):
    """A fused loss has no module; under "ngd" it needs no second derivative."""
    net, x, y = nn.Linear(6, 5), torch.randn(10, 3, 6), torch.randint(1, 5, (3, 4))
    with pytest.raises(UnsupportedModuleError, match='the loss has none.*divergence="ngd"'):
        LLQR(net, divergence="newton").refresh(x, y, loss_fn)
    assert LLQR(net, inner_steps=2, likelihood="gaussian").refresh(x, y, loss_fn).accepted


class Reverse(nn.Linear):
    """Differentiable twice, but in reverse mode only, so that it is not replayed."""

    class Function(_Square):
        @staticmethod
        def backward(ctx, u):
            return 2 * ctx.saved_tensors[0] * u

    def forward(self, x):
        return self.Function.apply(super().forward(x))


@pytest.mark.parametrize("size", [1.0, 1e3, float("nan")])
@pytest.mark.parametrize("divergence", ["ngd", "newton"])
def test_rounding_is_no_missing_derivative(divergence, size):
    """In float32; a softmax that has saturated, gradient all but zero, and outputs that are not finite."""
    net, x = nn.Sequential(Reverse(3, 4), nn.Linear(4, 5)), size * torch.randn(6, 3)
    report = LLQR(net, divergence=divergence, inner_steps=2).refresh(x, net(x).argmax(-1), nn.functional.cross_entropy)
    assert report.accepted == (size < 1e9)


def test_backward_passes_are_tested_once_a_loss(monkeypatch):
    calls = []
    monkeypatch.setattr(products, "require_adjoint", lambda *_: calls.append(_))
    net, x, y = nn.Sequential(Reverse(3, 4), nn.Linear(4, 5)), torch.randn(6, 3), torch.randint(0, 5, (6,))
    for metric in (LLQR(net, divergence="newton"), LLQR(net, divergence="newton", chunk_size=2)):
        for _ in range(3):
            metric.refresh(x, y, mean_loss)
        assert len(calls) == 2, "the network's and the loss's"
        calls.clear()


def test_complex_values_are_no_missing_derivative():
    x, w = torch.randn(4, 3), torch.randn(3, 2, dtype=torch.cfloat, requires_grad=True)
    z = x.to(torch.cfloat) @ w
    require_adjoint([z, z.abs(), z.real], [w])
    with pytest.raises(RuntimeError, match="outside autograd"):
        require_adjoint([z, _Raw.apply(z)], [w])


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

    calls, failing = itertools.count(1), 0

    def forward(self, x):
        if next(self.calls) == self.failing:
            raise torch.OutOfMemoryError(FULL)
        return super().forward(x)


@pytest.mark.parametrize(("divergence", "calls"), [("ngd", 2), ("newton", 3)])
def test_a_full_device_is_no_missing_derivative(divergence, calls):
    """Whichever forward pass fails, the last of them the trace's: torch's own error, and the next refresh replays."""
    net, x, y = nn.Sequential(nn.Linear(3, 4), Full(4, 5)), torch.randn(6, 3), torch.randint(0, 5, (6,))
    for failing in range(1, calls + 1):
        metric = LLQR(net, divergence=divergence, inner_steps=1)
        net[1].calls, net[1].failing = itertools.count(1), failing
        with pytest.raises(torch.OutOfMemoryError, match=FULL):
            metric.refresh(x, y, mean_loss)
        report = metric.refresh(x, y, mean_loss)
        assert report.accepted
        assert not report.unreplayed


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
    with pytest.raises(RuntimeError, match="a reason") as caught, explained(point_of(net, x)):
        raise RuntimeError("a reason")
    assert not isinstance(caught.value, UnsupportedModuleError)


def test_the_search_leaves_the_network_as_it_was():
    """Its forward pass is one of a refresh: no batch-norm statistics, no dropout, the caller's modes."""
    net, x, _ = NETWORKS["conv"]()
    net.train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with pytest.raises(RuntimeError, match="a reason"), explained(point_of(net, x)):
        raise RuntimeError("a reason")
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())
