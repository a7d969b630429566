"""Blocks of a network: what is stacked with what."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from llqr_sam import LLQR
from llqr_sam.methods.assembly import assemble
from llqr_sam.methods.diagonal import Diagonal
from llqr_sam.methods.distributed import Ranks
from tests.methods.networks import NETWORKS, mean_loss


@pytest.mark.parametrize("name", list(NETWORKS))
def test_kernels_of_one_shape_share_a_block(name):
    net, _, _ = NETWORKS[name]()
    kernels = [block for block in assemble(net, "kfac", Ranks()) if not isinstance(block, Diagonal)]
    assert len({(block.n, block.m) for block in kernels}) == len(kernels)


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_trainable_parameter_has_one_block(name, structure):
    net, _, _ = NETWORKS[name]()
    next(net.parameters()).requires_grad_(False)
    held = [n for block in assemble(net, structure, Ranks()) for n in block.named_factors()]
    assert sorted(held) == sorted(n for n, p in net.named_parameters() if p.requires_grad)


def test_diagonal_is_one_flat_block():
    net, _, _ = NETWORKS["conv"]()
    (block,) = assemble(net, "diagonal", Ranks())
    assert block.factors["d"].numel() == sum(p.numel() for p in net.parameters())


class Attention(nn.Module):
    """One attention layer over a sequence with a class token, from a fused projection or from three."""

    def __init__(self, fused):
        super().__init__()
        if fused:
            self.qkv = nn.Linear(4, 12)
        else:
            self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.fused, self.head = fused, nn.Linear(4, 5)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        return self.head(scaled_dot_product_attention(q, k, v).mean(1))


class TorchAttention(nn.Module):
    """The same from torch's layer, whose output projection is left as the identity."""

    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 1, batch_first=True), nn.Linear(4, 5)
        nn.init.eye_(self.attention.out_proj.weight)
        self.attention.out_proj.requires_grad_(False)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


FUSED = {"qkv": (lambda: Attention(True), "qkv.{}"), "in_proj": (TorchAttention, "attention.in_proj_{}")}


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
@pytest.mark.parametrize("layer", list(FUSED))
def test_a_fused_projection_learns_what_three_learn(layer, structure):
    """q, k and v are three kernels, each clipped by itself with its bias (METHODS section 2)."""
    build, name = FUSED[layer]
    fused, separate = build().double(), Attention(False).double()
    own = dict(fused.named_parameters())
    with torch.no_grad():
        own[name.format("weight")][:4].mul_(20)  # gradients of very different sizes
        for kind in ("weight", "bias"):
            for part, theirs in zip(own[name.format(kind)].chunk(3), "qkv", strict=True):
                separate.get_parameter(f"{theirs}.{kind}").copy_(part)
            separate.head.get_parameter(kind).copy_(fused.head.get_parameter(kind))
    x, y = torch.randn(6, 3, 4, dtype=torch.float64), torch.randint(0, 5, (6,))
    v = {n: torch.randn_like(p) for n, p in separate.named_parameters()}
    together = {kind: torch.cat([v[f"{theirs}.{kind}"] for theirs in "qkv"]) for kind in ("weight", "bias")}
    options = {"structure": structure, "inner_steps": 10, "inner_lr": 0.1, "clip_norm": 1e-3, "ema": 0.0}
    learned, expected = LLQR(fused, **options), LLQR(separate, **options)
    learned.refresh(x, y, mean_loss)
    expected.refresh(x, y, mean_loss)
    applied, uv = learned.apply({name.format(kind): x for kind, x in together.items()}), expected.apply(v)
    for kind in ("weight", "bias"):
        whole = torch.cat([uv[f"{theirs}.{kind}"] for theirs in "qkv"])
        torch.testing.assert_close(applied[name.format(kind)], whole, rtol=1e-9, atol=1e-12)
        assert (whole - together[kind]).abs().max() > 1e-6
