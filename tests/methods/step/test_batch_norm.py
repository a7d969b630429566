"""Frozen batch-norm statistics: same outputs, nothing recorded, everything restored."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llqr_sam.methods.step.batch_norm import frozen_statistics


def _net():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3), nn.BatchNorm1d(3))


def _instance_net():
    norms = nn.InstanceNorm2d(2, track_running_stats=True), nn.InstanceNorm2d(2)  # the second records nothing
    return nn.Sequential(nn.Conv2d(1, 2, 3), *norms, nn.Flatten(), nn.Linear(8, 3))


def _statistics(net):
    return {n: b.clone() for n, b in net.named_buffers()}


@pytest.mark.parametrize("build", [_net, _instance_net])
@pytest.mark.parametrize("named", [True, False])
def test_outputs_are_the_same_and_nothing_is_recorded(named, build):
    net, x = build(), torch.randn(4, 1, 4, 4)
    before = _statistics(net)
    with frozen_statistics(net if named else None, {}):
        frozen = net(x)
    assert all(torch.equal(b, before[n]) for n, b in net.named_buffers()), "num_batches_tracked included"
    assert torch.equal(net(x), frozen)
    assert not torch.equal(net[1].running_mean, before["1.running_mean"]), "recording is on again"


@pytest.mark.parametrize("named", [True, False])
def test_nesting_and_exceptions_leave_modules_as_found(named):
    net, x = _net(), torch.randn(4, 1, 4, 4)
    net[4].track_running_stats = False
    model = net if named else None
    with pytest.raises(KeyboardInterrupt), frozen_statistics(model, {}), frozen_statistics(model, {}):
        net(x)
        raise KeyboardInterrupt
    assert net[1].track_running_stats
    assert net[1].momentum == 0.1
    assert not net[4].track_running_stats


def test_evaluation_mode_is_left_alone():
    """A layer that normalises by its running statistics goes on doing so."""
    net, x = _net().eval(), torch.randn(4, 1, 4, 4)
    expected = net(x)
    with frozen_statistics(net, {}):
        assert torch.equal(net(x), expected)


def test_memory_serves_the_network_as_it_is():
    """It is used again, and a layer that was replaced, frozen or cast since then is restored like any other."""
    net, x, memory = _net(), torch.randn(4, 1, 4, 4), {}

    def restored():
        before = _statistics(net)
        with frozen_statistics(net, memory):
            net(x.to(net[0].weight.dtype))
        assert all(torch.equal(b, before[n]) for n, b in net.named_buffers())
        return [id(copy) for copy in memory.values()]

    assert restored() == restored()
    net[1] = nn.BatchNorm2d(2)
    restored()
    net[4].eval()
    assert len(restored()) == 3, "what is not recorded any more is not kept"
    net.double()
    restored()
    assert {copy.dtype for copy in memory.values()} == {torch.float64, torch.int64}
