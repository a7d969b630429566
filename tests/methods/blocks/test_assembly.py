"""Blocks of a network: what is stacked with what."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from llqr_sam import LLQR
from llqr_sam.methods.blocks.assembly import Parameters, assemble
from llqr_sam.methods.blocks.diagonal import Diagonal
from llqr_sam.methods.blocks.layout import SEPARATE
from llqr_sam.methods.distributed import Ranks
from tests.methods.networks import NETWORKS, mean_loss

pytestmark = pytest.mark.filterwarnings("ignore:structure=.* is for matrices")


@pytest.mark.parametrize("name", list(NETWORKS))
def test_kernels_of_one_shape_share_a_block(name):
    net, _, _ = NETWORKS[name]()
    kernels = [block for block in assemble(Parameters(net), "kfac", Ranks()) if not isinstance(block, Diagonal)]
    assert len({(block.n, block.m) for block in kernels}) == len(kernels)


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_trainable_parameter_has_one_block(name, structure):
    net, _, _ = NETWORKS[name]()
    next(net.parameters()).requires_grad_(False)
    held = [n for block in assemble(Parameters(net), structure, Ranks()) for n in block.named_factors()]
    assert sorted(held) == sorted(n for n, p in net.named_parameters() if p.requires_grad)


def test_diagonal_is_one_flat_block():
    net, _, _ = NETWORKS["conv"]()
    (block,) = assemble(Parameters(net), "diagonal", Ranks())
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


class SeparateTorchAttention(TorchAttention):
    """The same where torch stores the three projections apart, though it has one bias for all."""

    def __init__(self):
        super().__init__()
        attention = self.attention
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True, kdim=4, vdim=4)
        self.attention.out_proj = attention.out_proj
        self.attention._qkv_same_embed_dim = False
        self.attention.in_proj_weight = None
        for name in SEPARATE:
            self.attention.register_parameter(name, nn.Parameter(torch.zeros(4, 4)))


FUSED = {"qkv": (lambda: Attention(True), "qkv.{}"), "in_proj": (TorchAttention, "attention.in_proj_{}")}


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
@pytest.mark.parametrize("layer", list(FUSED))
def test_a_fused_projection_learns_what_three_learn(layer, structure):
    """q, k and v are three kernels, each clipped by itself with its bias (docs/methods.md, section 2.3)."""
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


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
def test_projections_stored_apart_learn_what_a_fused_one_learns(structure):
    apart, fused = SeparateTorchAttention().double(), TorchAttention().double()
    with torch.no_grad():
        fused.attention.in_proj_weight[:4].mul_(20)
        for name, part in zip(SEPARATE, fused.attention.in_proj_weight.chunk(3), strict=True):
            apart.attention.get_parameter(name).copy_(part)
        for name in ("attention.in_proj_bias", "attention.out_proj.bias", "head.weight", "head.bias"):
            apart.get_parameter(name).copy_(fused.get_parameter(name))
    x, y = torch.randn(6, 3, 4, dtype=torch.float64), torch.randint(0, 5, (6,))
    options = {"structure": structure, "inner_steps": 10, "inner_lr": 0.1, "clip_norm": 1e-3, "ema": 0.0}
    learned, expected = LLQR(apart, **options), LLQR(fused, **options)
    learned.refresh(x, y, mean_loss)
    expected.refresh(x, y, mean_loss)
    v = {n: torch.randn_like(p) for n, p in fused.named_parameters() if p.requires_grad}
    parts = dict(zip(SEPARATE, v["attention.in_proj_weight"].chunk(3), strict=True))
    own = {n: x for n, x in v.items() if n != "attention.in_proj_weight"}
    uv = learned.apply({**own, **{f"attention.{name}": part for name, part in parts.items()}})
    whole = expected.apply(v)
    together = torch.cat([uv[f"attention.{name}"] for name in SEPARATE])
    torch.testing.assert_close(together, whole["attention.in_proj_weight"], rtol=1e-9, atol=1e-12)
    for name in own:
        torch.testing.assert_close(uv[name], whole[name], rtol=1e-9, atol=1e-12)


def _odd():
    """Every shape that is no matrix, or not at once."""
    return nn.ModuleDict(
        {
            "lstm": nn.LSTM(3, 4),
            "bilinear": nn.Bilinear(3, 4, 5),
            "norm": nn.LayerNorm([8, 6, 6]),
            "conv": nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 16, 3)),
            "bag": nn.EmbeddingBag(50, 4),
        }
    )


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
def test_weights_that_are_no_matrix_are_named_once(structure):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        metric = LLQR(_odd(), structure=structure)
    if structure == "diagonal":
        assert not said
    else:
        (warning,) = said
        names = "lstm.weight_ih_l0, lstm.weight_hh_l0, bilinear.weight"
        assert str(warning.message) == f"structure={structure} is for matrices, and U stays diagonal on {names}."
        assert warning.filename == __file__
    assert metric.named_factors()["norm.weight"]["d"].shape == (8, 6, 6)
    elementwise = sum(p.numel() for n, p in _odd().named_parameters() if n.startswith(("lstm", "bilinear", "norm")))
    conv = {"kfac": 16**2 + 72**2, "ekfac": 16**2 + 72**2 + 16 * 72, "diag_kfac": 16 + 72, "diagonal": 16 * 72}
    bag = {"kfac": 50 + 16, "ekfac": 16 + 200, "diag_kfac": 54, "diagonal": 200}
    assert metric.storage == elementwise + 16 + 16 + conv[structure] + bag[structure]


def test_odd_shapes_round_trip_through_a_state():
    metric, other = LLQR(_odd(), structure="kfac"), LLQR(_odd(), structure="kfac")
    for factors in metric.named_factors().values():
        for factor in factors.values():
            factor.normal_()
    other.load_state_dict(metric.state_dict())
    for name, factors in metric.named_factors().items():
        assert all(torch.equal(f, other.named_factors()[name][key]) for key, f in factors.items())


@pytest.mark.parametrize("structure", ["diagonal", "kfac"])
def test_odd_shapes_are_spread_over_ranks(structure):
    net, held = _odd(), []
    for rank in range(3):
        seat = Ranks()
        seat.rank, seat.size = rank, 3
        held += [n for block in assemble(Parameters(net), structure, seat) for n in block.named_factors()]
    assert sorted(held) == sorted(n for n, _ in net.named_parameters())
