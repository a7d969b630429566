"""A refresh sees what ``eval()`` makes of a network, with a graph of its own at each call."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

from llqr_sam import LLQR
from tests.methods.networks import mean_loss
from tests.methods.test_hard_networks import DIVERGENCES, blob, check


class Box:
    """A cache that is no module."""

    def __init__(self):
        self.kept = None


CACHE: dict[str, torch.Tensor] = {}
INDEX = torch.tensor([0, 1, 2, 0, 1, 2])


class Biased(nn.Module):
    """A network with a bias that is kept in inference mode and dropped by ``train()``, wherever it is kept."""

    def __init__(self, make):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 5)
        self.biases = nn.Parameter(0.1 * torch.randn(3))
        self.bias, self.drop = make(self)

    def train(self, mode=True):
        super().train(mode)
        if mode:
            self.drop()
        return self

    def forward(self, x):
        bias = self.biases[INDEX] if self.training else self.bias()
        return self.last((self.first(x) + bias).tanh())


def in_a_box(net):
    net.box = Box()

    def bias():
        if net.box.kept is None:
            net.box.kept = net.biases[INDEX]
        return net.box.kept

    return bias, lambda: setattr(net.box, "kept", None)


def in_a_global(net):
    return lambda: CACHE.setdefault("bias", net.biases[INDEX]), CACHE.clear


def in_a_cached_function(net):
    bias = functools.lru_cache(lambda: net.biases[INDEX])
    return bias, bias.cache_clear


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("make", [in_a_box, in_a_global, in_a_cached_function])
def test_tensors_cached_outside_the_modules(make, divergence, mode):
    """A Hessian went through the graph of the call before, which was gone."""
    torch.manual_seed(1)
    net, x, y = Biased(make).double().train(mode), blob(7, 4), torch.randint(0, 5, (7,))
    plain = copy.deepcopy(net)
    plain.forward = lambda x: plain.last((plain.first(x) + plain.biases[INDEX]).tanh())
    ours, theirs = (LLQR(n, divergence=divergence, inner_steps=3, inner_lr=0.1) for n in (net, plain))
    for _ in range(2):
        reports = [metric.refresh(x, y, mean_loss) for metric in (ours, theirs)]
        assert not reports[0].unreplayed
        with torch.no_grad():
            for p, q in zip(net.parameters(), plain.parameters(), strict=True):
                q.copy_(p.mul_(1.1))
    for name, factors in theirs.named_factors().items():
        torch.testing.assert_close(ours.named_factors()[name], factors, rtol=1e-10, atol=1e-12)
    if make is in_a_box:
        assert net.box.kept is None


class Eager(nn.Module):
    """The bias is computed by ``eval()`` itself, as in the first LeViT."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 5)
        self.biases = nn.Parameter(0.1 * torch.randn(3))

    def train(self, mode=True):
        nn.Module.train(self, mode)
        self.bias = None if mode else self.biases[INDEX]
        return self

    def forward(self, x):
        bias = self.biases[INDEX] if self.training else self.bias
        return self.last((self.first(x) + bias).tanh())


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_tensors_computed_on_the_way_to_inference_mode(divergence, mode):
    """``refresh`` has no gradients on, and took the bias for a constant."""
    check(Eager().double().train(mode), blob(7, 4), torch.randint(0, 5, (7,)), divergence, replayed=True)


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_random_numbers_of_the_caller_stay_his(divergence, chunk_size):
    class Drawing(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 0 * torch.rand(())

    net, x, y = Drawing(4, 5).double(), blob(8, 4), torch.randint(0, 5, (8,))
    before = torch.get_rng_state()
    LLQR(net, divergence=divergence, inner_steps=2, chunk_size=chunk_size).refresh(
        x, y, lambda z, y: mean_loss(z + 0 * torch.rand(()), y)
    )
    assert torch.equal(torch.get_rng_state(), before)
