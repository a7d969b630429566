"""Calls that leave nothing on the modules."""

from __future__ import annotations

from collections import OrderedDict, defaultdict

import pytest
import torch
from torch import nn

from llqr_sam.methods.module_attributes import unchanged_attributes


class Keeper(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("state", torch.zeros(2))
        self.count, self.items, self.names = 0, [1], {"a"}
        self.cache = {"deep": [OrderedDict(key=1), defaultdict(list)]}

    def forward(self, x):
        self.count += 1
        self.items.append(x)
        self.names.add("b")
        self.cache["deep"][0]["key"] = x
        self.cache["deep"][1]["new"].append(x)
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
