"""scripts/zoo.py: what it says of networks that are exact, refused and wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from llqr_sam.suite.config.errors import exit_status
from llqr_sam.torchvision_compat import ensure_torchvision
from tests.methods.curvature.test_diagnosis import FusedSquare

ensure_torchvision()
pytest.importorskip("timm")

SMALL = ("torchvision/VisionTransformer", "vit_tiny_patch16_224")


@pytest.fixture
def zoo(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    import zoo

    return zoo


def typed(zoo, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["zoo.py", *words])
    return exit_status(zoo.main)


@pytest.mark.slow
def test_small_networks_are_exact_under_both_divergences(zoo, monkeypatch, capsys):
    assert typed(zoo, monkeypatch, "--networks", ",".join(SMALL), "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["network"] for row in rows] == list(SMALL)
    for row in rows:
        assert row["ngd"]["word"] == row["newton"]["word"] == "exact"
        assert max(row[divergence]["error"] for divergence in ("ngd", "newton")) < 1e-10


def test_a_wrong_product_is_said_and_fails(zoo, monkeypatch, capsys):
    """Double backward is made to be off by a thousandth in one parameter."""
    right = zoo.double_backward

    def wrong(*arguments):
        first, *others = right(*arguments)
        return [1.001 * first, *others]

    monkeypatch.setattr(zoo, "double_backward", wrong)
    assert typed(zoo, monkeypatch, "--networks", SMALL[0], "--divergences", "ngd") == 1
    assert "wrong, 1e-03" in capsys.readouterr().out


def test_a_refusal_is_listed_with_its_reason(zoo, monkeypatch, capsys):
    monkeypatch.setitem(zoo.NETWORKS, SMALL[0], (4, {}))
    monkeypatch.setattr(
        zoo, "built", lambda name: nn.Sequential(nn.Flatten(), nn.Linear(48, 5), FusedSquare()).double()
    )
    assert typed(zoo, monkeypatch, "--networks", SMALL[0], "--divergences", "newton") == 0
    table = capsys.readouterr().out
    assert f"{SMALL[0]}, newton, refused: LLQR needs second derivatives, and module 2 (FusedSquare) has none" in table


def test_what_is_not_a_number_is_wrong(zoo):
    assert zoo.Outcome(float("nan")).word == "wrong"
    assert str(zoo.Outcome(2e-9, "why")) == "fell back, 2e-09"


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (("--networks", "resnet19"), "networks=resnet19 is not here. Choose from: resnet18, "),
        (("--divergences", "newtn"), "divergences=newtn is not here. Choose from: ngd, newton (did you mean newton?)"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(zoo, monkeypatch, capsys, words, phrase):
    assert typed(zoo, monkeypatch, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert phrase in line


def test_double_backward_is_the_hessian(zoo):
    """Of a small network, against torch's dense one."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Hardsigmoid()).double()
    x, y = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    v = [torch.randn_like(p) for p in net.parameters()]

    def loss(weight, bias):
        z = ((x @ weight.T + bias) + 3).clamp(0, 6) / 6
        return nn.functional.cross_entropy(z, y)

    leaves = tuple(p.detach() for p in net.parameters())
    _, expected = torch.autograd.functional.hvp(loss, leaves, tuple(v))
    torch.testing.assert_close(zoo.double_backward(net, x, y, "newton", v), list(expected))
