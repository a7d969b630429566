"""The elementwise block: applied, pulled back, clipped, averaged."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from llqr_sam.methods.blocks.block import HeavyBall
from llqr_sam.methods.blocks.diagonal import Diagonal
from llqr_sam.methods.blocks.layout import Vector

SHAPES = {"a.weight": (2, 3), "a.bias": (2,), "b.weight": (4,)}


def _diagonal(joint=True):
    parameters = [Vector(name, torch.Size(shape), name[0]) for name, shape in SHAPES.items()]
    return Diagonal(parameters, joint=joint, dtype=torch.float64, device=torch.device("cpu"))


def _named(fill=None):
    return {
        n: torch.randn(s, dtype=torch.float64) if fill is None else torch.full(s, fill[n]) for n, s in SHAPES.items()
    }


@pytest.mark.parametrize("joint", [True, False])
def test_clips_a_layer_as_one_or_each_tensor_alone(joint):
    """With g = -1, one step from d = 1 without momentum moves d by the clipped c."""
    c = _named({"a.weight": 3.0, "a.bias": 4.0, "b.weight": 0.1})
    learner = _diagonal(joint).learner({n: -torch.ones_like(x) for n, x in c.items()}, HeavyBall(1.0, 0.0, 5.0))
    learner.descend(c)
    moved = 1 - learner.factors()["d"][0]
    weight, bias, small = moved.split([6, 2, 4])
    norms = {n: x.norm() for n, x in c.items()}
    together = torch.hypot(norms["a.weight"], norms["a.bias"])
    torch.testing.assert_close(weight, (3.0 * 5 / (together if joint else norms["a.weight"])).double().expand(6))
    torch.testing.assert_close(
        bias, (4.0 * 5 / (together if joint else norms["a.bias"].clamp_min(5))).double().expand(2)
    )
    torch.testing.assert_close(small, torch.full((4,), 0.1, dtype=torch.float64))


def test_learner_descends_the_objective():
    """J = g' delta + 1/2 |delta|^2 with delta = -d g has the gradient -g (g + delta) in d; heavy ball by hand."""
    block, g = _diagonal(), _named()
    learner = block.learner(g, HeavyBall(lr=0.1, momentum=0.9, clip_norm=1e9))
    d, buffer = {n: torch.ones_like(x) for n, x in g.items()}, {n: torch.zeros_like(x) for n, x in g.items()}
    for _ in range(3):
        ug = {n: x.clone() for n, x in learner.apply().items()}
        for n, x in g.items():
            torch.testing.assert_close(ug[n], d[n] * x)
            buffer[n] = 0.9 * buffer[n] - x * (x - d[n] * x)
            d[n] = d[n] - 0.1 * buffer[n]
        learner.descend({n: g[n] - ug[n] for n in g})
    torch.testing.assert_close(learner.factors()["d"][0], torch.cat([x.flatten() for x in d.values()]))
    assert block.factors["d"].eq(1).all(), "the stored U moves only in average"


def test_applies_to_the_entries_it_is_given():
    block, x = _diagonal(), _named()
    block.factors["d"].copy_(torch.randn(1, 12))
    for n, ux in block.apply(x).items():
        torch.testing.assert_close(ux, block.named_factors()[n]["d"] * x[n])
    assert block.apply({"b.weight": x["b.weight"], "stranger": x["a.bias"]}).keys() == {"b.weight"}
    assert block.apply({}) == {}
    block.apply_({})


def test_is_kept_positive_after_averaging():
    block = _diagonal()
    block.average({"d": torch.full((1, 12), -100.0, dtype=torch.float64)}, ema=0.95)
    assert block.factors["d"].eq(Diagonal.floor).all()


def test_clips_parts_alone_and_takes_scalars():
    """Three equal slices of a fused tensor, each with its slice of the bias; a scalar is a layer of its own."""
    parameters = [
        Vector("weight", torch.Size((6, 2)), "a", parts=3),
        Vector("bias", torch.Size((6,)), "a", parts=3),
        Vector("scale", torch.Size(()), "scale"),
    ]
    block = Diagonal(parameters, joint=True, dtype=torch.float64, device=torch.device("cpu"))
    c = {p.name: torch.randn(p.shape, dtype=torch.float64) for p in parameters}
    learner = block.learner({name: -torch.ones_like(x) for name, x in c.items()}, HeavyBall(1.0, 0.0, 1e-3))
    learner.descend(c)
    moved = block.views(1 - learner.factors()["d"])
    for i in range(3):
        weight, bias = moved["weight"][2 * i : 2 * i + 2], moved["bias"][2 * i : 2 * i + 2]
        assert float(torch.cat([weight.reshape(-1), bias]).norm()) == pytest.approx(1e-3)
    assert float(moved["scale"].abs()) == pytest.approx(1e-3)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_memory_order_changes_no_value(how):
    """Of d by name, of its products, nor of a copy; the order is that of the tensors it was laid out like."""
    shape = (2, 3, 4, 4)
    block = Diagonal([Vector("w", torch.Size(shape), "w")], joint=True, dtype=torch.float64, device=torch.device("cpu"))
    block.factors["d"].copy_(torch.rand(1, 96))
    d = block.named_factors()["w"]["d"].clone()
    like = torch.zeros(shape, dtype=torch.float64).to(memory_format=torch.channels_last)
    block.lay_out({"w": like})
    for present in (block, how(block)):
        assert present.named_factors()["w"]["d"].stride() == like.stride()
        assert torch.equal(present.named_factors()["w"]["d"], d)
        for x in (torch.randn_like(like), torch.randn(shape).bfloat16()):
            assert torch.equal(present.apply({"w": x})["w"], d.to(x.dtype) * x)
        present.named_factors()["w"]["d"].fill_(3.0)
        assert present.factors["d"].eq(3).all(), "views share the factor's memory"
        assert present.apply({"w": torch.ones(shape).bfloat16()})["w"].eq(3).all(), "rounded anew after a change"
