"""The state as checkpoint libraries carry it: tensors by parameter, plain values in the groups."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.nn.parallel import DistributedDataParallel

from llqr_sam import LLQR, Friendly, GradientNoise, SharpnessAware
from tests.methods.networks import NETWORKS, mean_loss
from tests.methods.training import METHODS, closure_of, identical, sgd

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of dcp, in one process


def _started(method, steps=3):
    net, x, y = NETWORKS["conv"]()
    optimizer = METHODS[method](net)
    if isinstance(optimizer.probe, LLQR):
        optimizer.probe.refresh(x, y, mean_loss)
    for _ in range(steps):
        optimizer.step(closure_of(net, optimizer, x, y))
    return net, optimizer, x, y


@pytest.mark.parametrize("method", list(METHODS))
def test_the_state_is_tensors_by_parameter_and_plain_values(method):
    _, optimizer, _, _ = _started(method)
    state = optimizer.state_dict()
    assert state.keys() == {"state", "param_groups"}
    for entry in state["state"].values():
        ours = [value for key, value in entry.items() if key.startswith("sharpness_aware/")]
        assert all(isinstance(value, torch.Tensor) for value in ours)
    for group in state["param_groups"]:
        assert not any(isinstance(value, torch.Tensor) for value in group.values())
    assert state["param_groups"][0]["sharpness_aware/steps"] == 3


@pytest.mark.parametrize("method", list(METHODS))
def test_a_distributed_checkpoint_continues_bit_for_bit(method, tmp_path):
    net, optimizer, x, y = _started(method)
    optimizer.zero_grad()
    dcp.save({"net": net.state_dict(), "optimizer": get_optimizer_state_dict(net, optimizer)}, checkpoint_id=tmp_path)
    torch.manual_seed(3)
    other, _, _ = NETWORKS["conv"]()
    resumed = METHODS[method](other)
    state = {"net": other.state_dict(), "optimizer": get_optimizer_state_dict(other, resumed)}
    dcp.load(state, checkpoint_id=tmp_path)
    other.load_state_dict(state["net"])
    set_optimizer_state_dict(other, resumed, state["optimizer"])
    for _ in range(2):
        optimizer.step(closure_of(net, optimizer, x, y))
        resumed.step(closure_of(other, resumed, x, y))
    assert resumed.steps == optimizer.steps == 5
    assert identical(net.state_dict(), other.state_dict())


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("method", list(METHODS))
def test_placeholders_of_a_fresh_optimizer_are_not_its_averages(method, loaded):
    """A distributed checkpoint at step 0 makes tensors of zeros; the first gradient starts the averages all the same.

    The base, too, has seen zeros, by torch's own doing.
    """

    def train(placed):
        torch.manual_seed(3)
        net, x, y = NETWORKS["conv"]()
        optimizer = METHODS[method](net)
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.param_groups[0]["lr"] = 0.0
        (optimizer if placed else optimizer.base).step(closure=None)
        if placed and loaded:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = METHODS[method](net)
            optimizer.load_state_dict(state)
        optimizer.param_groups[0]["lr"] = 0.05
        for _ in range(3):
            optimizer.step(closure_of(net, optimizer, x, y))
        return net.state_dict()

    assert identical(train(True), train(False))


@pytest.mark.parametrize("method", list(METHODS))
def test_a_state_of_version_0_1_0_is_loaded(method):
    """It had everything of ours in an entry beside the base's two."""
    net, optimizer, x, y = _started(method)
    parts = {"direction": optimizer.direction, "probe": optimizer.probe}
    transport = None if optimizer.transport is optimizer.probe else optimizer.transport
    names = {name: type(part).__name__ for name, part in parts.items()}
    own = {
        "parts": {**names, "transport": type(transport).__name__ if transport else "the probe"},
        "steps": optimizer.steps,
        **{name: part.state_dict() for name, part in parts.items()},
        "transport": transport and transport.state_dict(),
    }
    old = copy.deepcopy({**optimizer.base.state_dict(), "sharpness_aware": own})
    other = copy.deepcopy(net)
    resumed = METHODS[method](other)
    resumed.load_state_dict(old)
    optimizer.step(closure_of(net, optimizer, x, y))
    resumed.step(closure_of(other, resumed, x, y))
    assert resumed.steps == 4
    assert identical(net.state_dict(), other.state_dict())


def test_a_flattened_state_is_refused():
    """It keeps what the base has in ``state`` alone."""
    net, optimizer, _, _ = _started("f_sam")
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    state = get_optimizer_state_dict(net, optimizer, options=options)
    with pytest.raises(ValueError, match=r"flattened for torch\.distributed\.checkpoint"):
        set_optimizer_state_dict(net, optimizer, state, options=options)


def test_a_parameter_that_the_optimizer_does_not_hold_is_kept_too():
    """U learns on all trainable parameters of its network; here the base moves those of one layer."""
    net, x, y = NETWORKS["mlp"]()
    metric = LLQR(net, inner_steps=3)
    optimizer = SharpnessAware(torch.optim.SGD(net[0].parameters(), lr=0.1), probe=metric, transport=metric)
    metric.refresh(x, y, mean_loss)
    other = copy.deepcopy(net)
    fresh = LLQR(other, inner_steps=3)
    resumed = SharpnessAware(torch.optim.SGD(other[0].parameters(), lr=0.1), probe=fresh, transport=fresh)
    resumed.load_state_dict(optimizer.state_dict())
    for name, factors in metric.named_factors().items():
        assert identical(fresh.named_factors()[name], factors)


def test_names_with_strange_characters_and_a_parameter_named_as_a_key():
    net = nn.ParameterDict({"average": nn.Parameter(torch.randn(3)), "a/b*c": nn.Parameter(torch.randn(2))})
    optimizer = SharpnessAware(sgd(net), direction=Friendly(), probe=GradientNoise(), model=net)

    def closure():
        loss = sum(p.square().sum() for p in net.values())
        loss.backward()
        return loss

    optimizer.step(closure)
    resumed = SharpnessAware(sgd(net), direction=Friendly(), probe=GradientNoise(), model=net)
    resumed.load_state_dict(optimizer.state_dict())
    assert identical(resumed.direction.average, optimizer.direction.average)
    assert identical(resumed.probe.state_dict()["mean"], optimizer.probe.state_dict()["mean"])


def test_a_state_of_other_groups_is_refused_before_anything_is_loaded():
    net, optimizer, _, _ = _started("f_sam")
    small, _, _ = NETWORKS["mlp"]()
    other = METHODS["f_sam"](small)
    with pytest.raises(ValueError, match=rf"of {len(list(net.parameters()))} parameters, and this optimizer has 6"):
        other.load_state_dict(optimizer.state_dict())
    assert not other.direction.average


def _sharded_u(folder, save):
    """U spread over two ranks, or whole in one process; saved, or loaded into fresh objects."""
    net, x, y = NETWORKS["mlp"]()
    model = DistributedDataParallel(net) if dist.is_initialized() else net
    metric = LLQR(model, structure="kfac", inner_steps=3, ema=0.0, shard=dist.is_initialized())
    optimizer = SharpnessAware(sgd(net), rho=0.1, probe=metric, transport=metric)
    if save:
        metric.refresh(x, y, mean_loss)
        optimizer.step(closure_of(model, optimizer, x, y))
        optimizer.zero_grad()
        dcp.save({"optimizer": get_optimizer_state_dict(net, optimizer)}, checkpoint_id=folder)
    else:
        state = {"optimizer": get_optimizer_state_dict(net, optimizer)}
        dcp.load(state, checkpoint_id=folder)
        set_optimizer_state_dict(net, optimizer, state["optimizer"])
    return {f"{n}.{key}": f.clone() for n, fs in metric.named_factors().items() for key, f in fs.items()}


@pytest.mark.slow
def test_a_sharded_u_is_loaded_by_one_process_and_by_two(two, tmp_path):
    shares = two(_sharded_u, str(tmp_path), True)
    whole = {name: factor for share in shares for name, factor in share.items()}
    assert identical(_sharded_u(str(tmp_path), False), whole)
    for loaded, share in zip(two(_sharded_u, str(tmp_path), False), shares, strict=True):
        assert identical(loaded, share)
