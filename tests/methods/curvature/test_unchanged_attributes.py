"""Calls that leave nothing behind: on the modules, in the objects that they hold, or on a loss that is a module."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict

import pytest
import torch
from torch import nn
from torch.nn import functional

from llqr_sam import LLQR
from llqr_sam.methods.curvature.inference import unchanged_attributes
from tests.methods.networks import mean_loss
from tests.methods.test_hard_networks import DIVERGENCES, blob, check


class Keeper(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("state", torch.zeros(2))
        self.count, self.items, self.names = 0, [1], {"a"}
        self.cache = {"deep": [OrderedDict(key=1), defaultdict(list), Counter(calls=2)]}

    def forward(self, x):
        self.count += 1
        self.items.append(x)
        self.names.add("b")
        self.cache["deep"][0]["key"] = x
        self.cache["deep"][1]["new"].append(x)
        self.cache["deep"][2]["calls"] += 1
        self.cache["other"] = x
        self.layer.seen = x
        self.state = self.state + 1
        del self.layer.bias
        return x


def _snapshot(net):
    return {name: repr(value) for module in net.modules() for name, value in vars(module).items()}


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_it_was(fails):
    """Values and identities, at any depth of built-in containers, also after an error."""
    net = Keeper()
    before, identities = _snapshot(net), (net.items, net.cache, net.state, net.layer.bias)
    with pytest.raises(ZeroDivisionError) if fails else unchanged_attributes(net), unchanged_attributes(net):
        net(torch.ones(2))
        assert net.count == 1
        if fails:
            _ = 1 / 0
    assert _snapshot(net) == before
    assert all(a is b for a, b in zip(identities, (net.items, net.cache, net.state, net.layer.bias), strict=True))


def test_containers_may_hold_each_other():
    net = Keeper()
    net.items.append(net.items)
    net.cache["self"] = net.cache
    with unchanged_attributes(net):
        net.items.clear()
    assert net.items[0] == 1
    assert net.items[1] is net.items


class Box:
    """A cache that is no module."""

    def __init__(self):
        self.kept = None


class Logging(nn.Module):
    """What the last call made is kept in an object that is no module, and read by the next one."""

    def __init__(self):
        super().__init__()
        self.linear, self.box = nn.Linear(4, 5), Box()
        self.box.kept, self.box.all = torch.zeros(5, dtype=torch.float64), []

    def forward(self, x):
        z = self.linear(x)
        self.box.kept = 0.9 * self.box.kept + 0.1 * z.mean(0)
        self.box.all.append(z)
        return z + self.box.kept


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_refresh_leaves_nothing_in_the_modules_objects(divergence):
    """A tensor of the trace stayed in the object, and the next step of training met it."""
    net, x, y = Logging().double(), blob(7, 4), torch.randint(0, 5, (7,))
    metric = LLQR(net, divergence=divergence, inner_steps=2)
    for _ in range(2):
        assert not metric.refresh(x, y, mean_loss).unreplayed
    assert not net.box.kept.any()
    assert net.box.all == []
    check(net, x, y, divergence, replayed=True)


class Centred(nn.Module):
    """A loss with a running mean of its own."""

    def __init__(self, in_place):
        super().__init__()
        self.register_buffer("mean", torch.zeros(5, dtype=torch.float64))
        self.in_place = in_place

    def forward(self, z, y):
        if self.in_place:
            self.mean.mul_(0.9).add_(0.1 * z.detach().mean(0))
        else:
            self.mean = 0.9 * self.mean + 0.1 * z.detach().mean(0)
        self.last = z
        return functional.cross_entropy(z * (1 + self.mean.square().sum()), y)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_refresh_leaves_nothing_on_the_loss(divergence, chunk_size, in_place):
    """Its mean moved on with each call, and a tensor of the trace stayed in it."""
    net, loss_fn = nn.Linear(4, 5).double(), Centred(in_place)
    x, y = blob(8, 4), torch.randint(0, 5, (8,))
    metric = LLQR(net, divergence=divergence, inner_steps=2, chunk_size=chunk_size)
    if chunk_size is None:
        for _ in range(2):
            assert metric.refresh(x, y, loss_fn).accepted
    else:
        with pytest.raises(ValueError, match="chunk_size=4 does not fit"):
            metric.refresh(x, y, loss_fn)
    assert not loss_fn.mean.any()
    assert not hasattr(loss_fn, "last")
