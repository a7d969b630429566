"""What a step leaves behind and what it asks for: nothing, once the first one is over."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llqr_sam import LLQR, SharpnessAware
from tests.methods.networks import NETWORKS, mean_loss


class _Operations(TorchDispatchMode):
    """Names of the operations, and bytes of every result that is not one of its arguments' memory."""

    def __init__(self):
        super().__init__()
        self.names, self.allocated = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {_memory(t) for t in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        self.names.append(func.overloadpacket.__name__)
        self.allocated += sum(t.nbytes for t in _tensors(result) if _memory(t) not in known)
        return result


def _tensors(tree):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _memory(tensor):
    return tensor.untyped_storage().data_ptr()


def _held():
    """Bytes of all tensors that are alive."""
    gc.collect()
    alive = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter)]
    return sum({_memory(t): t.untyped_storage().nbytes() for t in alive}.values())


def _refreshed(structure):
    net, x, y = NETWORKS["conv"]()
    metric = LLQR(net, structure=structure, inner_steps=3)
    metric.refresh(x, y, mean_loss)
    return net, metric, x, y


def test_diagonal_transport_is_one_multiply_in_place():
    net, metric, _, _ = _refreshed("diagonal")
    gradients = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    expected = metric.apply(gradients)
    with _Operations() as seen:
        metric.apply_(gradients)
    assert seen.names == ["_foreach_mul_"]
    assert seen.allocated == 0
    assert all(torch.equal(gradients[n], expected[n]) for n in expected)


@pytest.mark.parametrize("structure", ["kfac", "ekfac", "diag_kfac"])
def test_transport_in_place_is_the_transport(structure):
    net, metric, _, _ = _refreshed(structure)
    gradients = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    expected = metric.apply(gradients)
    memory = {n: _memory(g) for n, g in gradients.items()}
    metric.apply_(gradients)
    torch.testing.assert_close(gradients, expected)
    assert all(_memory(g) == memory[n] for n, g in gradients.items())


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["diagonal", "diag_kfac", "kfac", "ekfac"])
def test_no_step_and_no_refresh_leaves_memory_behind(structure):
    net, metric, x, y = _refreshed(structure)
    optimizer = SharpnessAware(
        torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9), rho=0.1, probe=metric, transport=metric
    )

    def closure():
        optimizer.zero_grad()
        loss = mean_loss(net(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.step(closure)
    before = _held()
    for _ in range(3):
        optimizer.step(closure)
    assert _held() == before
    metric.refresh(x, y, mean_loss)
    assert _held() == before


@pytest.mark.parametrize("norm", ["metric", "euclidean"])
def test_a_diagonal_step_asks_for_no_more_than_u_v_and_its_length(norm):
    """Outside the closure, in vectors as long as the network; the base, SGD with momentum, needs none."""
    net = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(4)))
    metric = LLQR(net)
    base = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    optimizer = SharpnessAware(base, rho=0.1, probe=metric, transport=metric, norm=norm)
    x, y = torch.randn(4, 64), torch.randint(0, 64, (4,))
    inside = 0

    def closure():
        nonlocal inside
        before = seen.allocated
        optimizer.zero_grad()
        loss = mean_loss(net(x), y)
        loss.backward()
        inside += seen.allocated - before
        return loss

    with _Operations() as seen:
        optimizer.step(closure)
    inside = 0
    with _Operations() as seen:
        optimizer.step(closure)
    size = sum(p.nbytes for p in net.parameters())
    assert seen.allocated - inside < 2.1 * size
