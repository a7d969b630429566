"""Block structures: U applied, U pulled back, U learned, each against its definition."""

from __future__ import annotations

import pytest
import torch

from llqr_sam.methods.blocks.block import Dense, DiagKFAC, HeavyBall
from llqr_sam.methods.blocks.layout import Kernel

F64 = {"dtype": torch.float64, "device": torch.device("cpu")}
KERNELS = [Kernel("first", torch.Size([3, 4]), n=3, m=4), Kernel("qkv", torch.Size([9, 4]), parts=3, n=3, m=4)]


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
    for name, x in block.apply(named).items():
        assert torch.equal(x, named[name])
    for name, x in block.scatter(block.gather(named)).items():
        assert torch.equal(x, named[name].double())


def test_absent_parameters_are_zero_and_stay_absent():
    block = DiagKFAC(KERNELS, **F64)
    assert block.apply({"qkv": torch.ones(9, 4)}).keys() == {"qkv"}
    assert block.gather({"qkv": torch.ones(9, 4)})[0].eq(0).all()


def test_diag_kfac_scales_rows_and_columns():
    block = _scrambled(DiagKFAC(KERNELS[:1], **F64))
    a, b = block.factors["a"][0], block.factors["b"][0]
    w = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(block.apply({"first": w})["first"], torch.diag(b) @ w @ torch.diag(a))


def test_average_mixes_factors():
    block = DiagKFAC(KERNELS, **F64)
    block.average({"a": torch.full((4, 4), 3.0).double(), "b": torch.full((4, 3), 5.0).double()}, ema=0.75)
    assert block.factors["a"].eq(1.5).all()
    assert block.factors["b"].eq(2.0).all()


def test_clip_only_shortens():
    clip = HeavyBall(clip_norm=5.0).clip(torch.tensor([0.0, 4.0, 25.0, 100.0, -1e-9]))
    torch.testing.assert_close(clip, torch.tensor([1.0, 1.0, 1.0, 0.5, 1.0]))


def test_steps_follow_the_recursion_each_entry_clipped_alone():
    """G <- G * 5 / max(5, |G|); buf <- G + 0.9 buf; U <- U - 1e-3 buf (golden/README)."""
    descent = HeavyBall()
    gradients = [torch.stack([torch.full((2, 2), 10.0), torch.full((2, 2), 1.0)]).double() for _ in range(3)]
    factor, buffer = torch.zeros(2, 2, 2).double(), torch.zeros(2, 2, 2).double()
    for gradient in gradients:
        descent.step(factor, buffer, gradient)
    travelled = 1e-3 * (1 + 1.9 + 2.71)
    torch.testing.assert_close(-factor[0], torch.full((2, 2), 2.5 * travelled).double())
    torch.testing.assert_close(-factor[1], torch.full((2, 2), 1.0 * travelled).double())
