"""Forms that stand in for torch's operations, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from llqr_sam.methods.curvature.inference import PlainForms, ReverseModeRules

BAGS = [0, 2, 2, 5]  # the second is empty


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 1, -1])
@pytest.mark.parametrize(("flat", "last"), [(False, False), (True, False), (True, True)])
def test_bags_and_their_gradients_are_torchs(mode, padding_idx, flat, last):
    weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    words = torch.randint(0, 6, (8,) if flat else (4, 2))
    offsets = torch.tensor([*BAGS, 8] if last else BAGS) if flat else None
    arguments = {"mode": mode, "padding_idx": padding_idx, "offsets": offsets, "include_last_offset": last}
    if mode == "sum":
        arguments["per_sample_weights"] = torch.randn(words.shape, dtype=torch.float64)
    theirs = functional.embedding_bag(words, weight, **arguments)
    with PlainForms():
        ours = functional.embedding_bag(words, weight, **arguments)
    torch.testing.assert_close(ours, theirs)
    u = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad(z, weight, u)[0] for z in (ours, theirs)))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_have_second_derivatives(mode):
    weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    words = torch.tensor([[0, 1, 2], [3, 4, 5]])
    with PlainForms():
        assert torch.autograd.gradgradcheck(lambda w: functional.embedding_bag(words, w, mode=mode).square(), weight)


def test_the_module_takes_the_plain_form_and_keeps_what_has_none():
    bag, words = nn.EmbeddingBag(6, 3, mode="mean"), torch.randint(0, 6, (4, 2))
    capped = nn.EmbeddingBag(6, 3, max_norm=1.0)
    with PlainForms():
        plain, kept = bag(words), capped(words)
    assert "EmbeddingBag" not in type(plain.grad_fn).__name__
    assert "EmbeddingBag" in type(kept.grad_fn).__name__
    torch.testing.assert_close(plain, bag(words))


def test_tangents_stop_where_the_backward_pass_does():
    """In no_grad, in functions that are decorated with it, and at a padding row."""

    @torch.no_grad()
    def held(x):
        return x.square().sum()

    table = torch.randn(4, 2, dtype=torch.float64)

    def f(x):
        with torch.no_grad():
            y = x * 3
        rows = functional.embedding(torch.tensor([0, 3, 1]), table * x.sum(), padding_idx=3)
        return (x * y * held(x)).sum() + rows.sum()

    x = torch.randn(5, dtype=torch.float64)
    with ReverseModeRules():
        _, pushed = torch.func.jvp(f, (x,), (torch.ones_like(x),))
    x.requires_grad_()
    (pulled,) = torch.autograd.grad(f(x), x)
    torch.testing.assert_close(pushed, pulled.sum().detach())
