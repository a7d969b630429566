"""State of a sharpness-aware step: saved, loaded, placed, refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._pytree import tree_leaves

from llqr_sam import LLQR, SharpnessAware
from tests.methods.networks import NETWORKS, mean_loss
from tests.methods.training import METHODS, closure_of, identical, sgd


@pytest.mark.parametrize("method", list(METHODS))
def test_state_dict_continues_bit_for_bit(method, tmp_path):
    """Five steps, save, load into fresh objects, five steps == ten steps, through a file and weights_only."""
    net, x, y = NETWORKS["conv"]()
    optimizer = METHODS[method](net)
    if isinstance(optimizer.probe, LLQR):
        optimizer.probe.refresh(x, y, mean_loss)
    for _ in range(5):
        optimizer.step(closure_of(net, optimizer, x, y))
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.manual_seed(0)
    other, _, _ = NETWORKS["conv"]()
    other.load_state_dict(state["net"])
    resumed = METHODS[method](other)
    resumed.load_state_dict(state["optimizer"])
    for _ in range(5):
        optimizer.step(closure_of(net, optimizer, x, y))
        resumed.step(closure_of(other, resumed, x, y))
    assert identical(net.state_dict(), other.state_dict())


@pytest.mark.parametrize("method", ["f_sam", "info_sam", "adamw"])
@pytest.mark.parametrize("place", [torch.float64, torch.float32, "meta"])
def test_loaded_averages_are_placed_like_their_parameters(method, place):
    """A checkpoint is read on the CPU: averages follow the parameters at the first gradients that they see."""
    saved = METHODS[method](NETWORKS["mlp"]()[0].to(torch.float32 if place == torch.float64 else torch.float64))
    _step(saved)
    net = NETWORKS["mlp"]()[0].to(place)
    resumed = METHODS[method](net)
    resumed.load_state_dict(saved.state_dict())
    if place == "meta":
        gradients = {name: torch.empty_like(p) for name, p in net.named_parameters()}
        resumed.direction(gradients)
        resumed.probe.observe(gradients)
    else:
        _step(resumed)
        assert all(p.isfinite().all() for p in net.parameters())
    averages = [*vars(resumed.direction).values(), *vars(resumed.probe).values()]
    averages = [average for average in averages if isinstance(average, dict) and "0.weight" in average]
    assert averages
    for average in averages:
        assert average.keys() == dict(net.named_parameters()).keys()
        for name, p in net.named_parameters():
            assert (average[name].device, average[name].dtype) == (p.device, p.dtype)


def _step(optimizer):
    """One step on random data of the perceptron whose parameters it holds."""
    net, dtype = optimizer.model, optimizer.param_groups[0]["params"][0].dtype
    optimizer.step(closure_of(net, optimizer, torch.randn(12, 6, dtype=dtype), torch.randint(0, 5, (12,))))


def test_state_of_another_optimizer_is_refused():
    net, _, _ = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net))
    with pytest.raises(ValueError, match=r"optimizer\.base\.load_state_dict"):
        optimizer.load_state_dict(sgd(net).state_dict())
    with pytest.raises(ValueError, match="this is no state of an optimizer"):
        optimizer.load_state_dict({})


@pytest.mark.parametrize(
    ("saved", "present", "message"),
    [
        ("f_sam", "sam", "the saved state has direction Friendly, this optimizer Direction"),
        ("sam", "f_sam", "the saved state has direction Direction, this optimizer Friendly"),
        ("sam", "info_sam", "the saved state has probe Metric, this optimizer GradientNoise"),
        ("sam", "llqr_sam", "the saved state has probe Metric, this optimizer LLQR"),
        ("llqr_probe_sam", "llqr_sam", "the saved state has transport Metric, this optimizer the probe"),
        ("llqr_sam", "llqr_probe_sam", "the saved state has transport the probe, this optimizer Metric"),
        ("llqr_f_sam", "llqr_f_sam_diagonal", "structure=kfac.*structure=diagonal"),
    ],
)
def test_state_of_another_composition_is_refused_and_nothing_is_loaded(saved, present, message):
    old = METHODS[saved](NETWORKS["mlp"]()[0])
    _step(old)
    optimizer = METHODS[present](NETWORKS["mlp"]()[0])
    _step(optimizer)
    _step(optimizer)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(old.state_dict())
    for a, b in zip(tree_leaves(optimizer.state_dict()), tree_leaves(before), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
