"""Block structures: U applied, U pulled back, U learned, each against its definition."""

from __future__ import annotations

import pytest
import torch

from llqr_sam.methods.blocks import Dense, DiagKFAC, Diagonal
from llqr_sam.methods.descent import HeavyBall
from llqr_sam.methods.layout import Kernel, Vector

F64 = {"dtype": torch.float64, "device": torch.device("cpu")}
KERNELS = [Kernel("first", torch.Size([3, 4]), 1, 3, 4), Kernel("qkv", torch.Size([9, 4]), 3, 3, 4)]


def _scrambled(block):
    """The block with factors away from the identity."""
    for factor in block.factors.values():
        factor.add_(0.3 * torch.randn_like(factor))
    return block


def _objective(block, factors, w, target):
    """A scalar function of U W whose gradient in -U W is known: J = <target, -U W>."""
    return (target * -block.product(factors, w)).sum()


@pytest.mark.parametrize("kind", [DiagKFAC, Dense])
def test_pullback_is_the_gradient(kind):
    block = _scrambled(kind(KERNELS, **F64))
    w, c = torch.randn(2, 4, 3, 4, dtype=torch.float64).unbind()
    factors = {name: f.clone().requires_grad_() for name, f in block.factors.items()}
    expected = torch.autograd.grad(_objective(block, factors, w, c), list(factors.values()))
    pulled = block.pullback(block.factors, w, c)
    for gradient, (name, _) in zip(expected, factors.items(), strict=True):
        torch.testing.assert_close(pulled[name], gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [DiagKFAC, Dense])
def test_starts_at_the_identity_and_round_trips(kind):
    block = kind(KERNELS, **F64)
    named = {"first": torch.randn(3, 4), "qkv": torch.randn(9, 4)}
    for name, x in block.apply_named(named).items():
        assert torch.equal(x, named[name])
    for name, x in block.scatter(block.gather(named)).items():
        assert torch.equal(x, named[name].double())


def test_absent_parameters_are_zero_and_stay_absent():
    block = DiagKFAC(KERNELS, **F64)
    assert block.apply_named({"qkv": torch.ones(9, 4)}).keys() == {"qkv"}
    assert block.gather({"qkv": torch.ones(9, 4)})[0].eq(0).all()


def test_diag_kfac_scales_rows_and_columns():
    block = _scrambled(DiagKFAC(KERNELS[:1], **F64))
    a, b = block.factors["a"][0], block.factors["b"][0]
    w = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(block.apply_named({"first": w})["first"], torch.diag(b) @ w @ torch.diag(a))


def _diagonal(joint):
    parameters = [
        Vector("a.weight", torch.Size([2, 3]), "a"),
        Vector("a.bias", torch.Size([2]), "a"),
        Vector("b.weight", torch.Size([4]), "b"),
    ]
    return Diagonal(parameters, joint=joint, **F64)


@pytest.mark.parametrize("joint", [True, False])
def test_diagonal_clips_a_layer_as_one_or_each_tensor_alone(joint):
    block = _diagonal(joint)
    descent = HeavyBall(lr=1.0, momentum=0.0, clip_norm=5.0)
    gradient = torch.tensor([[3.0] * 6 + [4.0] * 2 + [0.1] * 4], dtype=torch.float64)
    factor, buffer = torch.zeros_like(gradient), torch.zeros_like(gradient)
    block.step(descent, factor, buffer, gradient)
    weight, bias, small = gradient[0, :6], gradient[0, 6:8], gradient[0, 8:]
    if joint:
        norm = torch.cat([weight, bias]).norm()
        expected = torch.cat([weight * 5 / norm, bias * 5 / norm, small])
    else:
        expected = torch.cat([weight * 5 / weight.norm(), bias * 5 / bias.norm(), small])
    torch.testing.assert_close(-factor[0], expected)


def test_diagonal_applies_without_gathering_as_with():
    block = _scrambled(_diagonal(True))
    named = {n: torch.randn(s, dtype=torch.float64) for n, s in [("a.weight", (2, 3)), ("a.bias", 2), ("b.weight", 4)]}
    gathered = block.scatter(block.apply(block.gather(named)))
    assert all(torch.equal(x, gathered[n]) for n, x in block.apply_named(named).items())


def test_diagonal_is_kept_positive_after_averaging():
    block = _diagonal(True)
    block.average({"d": torch.full((1, 12), -100.0, dtype=torch.float64)}, ema=0.95)
    assert block.factors["d"].eq(Diagonal.floor).all()


def test_average_mixes_factors():
    block = DiagKFAC(KERNELS, **F64)
    block.average({"a": torch.full((4, 4), 3.0).double(), "b": torch.full((4, 3), 5.0).double()}, ema=0.75)
    assert block.factors["a"].eq(1.5).all()
    assert block.factors["b"].eq(2.0).all()
