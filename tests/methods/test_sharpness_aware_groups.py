"""Parameter groups of a sharpness-aware step: the base's own, whoever changes them, and what their radius means."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import StepLR

from llqr_sam import LLQR, SharpnessAware
from tests.methods.networks import NETWORKS, mean_loss
from tests.methods.training import METHODS, closure_of, identical, sgd


def test_a_base_that_loads_a_state_keeps_its_groups_shared():
    """The state was saved before wrapping, so it has no rho: the radius is then the wrapper's."""
    net, x, y = NETWORKS["mlp"]()
    plain = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    plain.step(closure_of(net, plain, x, y))
    base = sgd(net)
    optimizer = SharpnessAware(base, rho=0.1)
    scheduler = StepLR(optimizer, 1, gamma=0.1)
    base.load_state_dict(plain.state_dict())
    assert optimizer.param_groups is base.param_groups
    assert optimizer.state is base.state
    assert optimizer.state[net[0].weight]["momentum_buffer"] is not None
    calls = []

    def closure():
        calls.append(0)
        return closure_of(net, optimizer, x, y)()

    optimizer.step(closure)
    scheduler.step()
    assert len(calls) == 2
    assert base.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize("named", [True, False])
def test_a_group_added_to_the_base_is_perturbed_and_trained(named):
    net, x, y = NETWORKS["mlp"]()
    base = torch.optim.SGD(net[0].parameters(), lr=0.1)
    optimizer = SharpnessAware(base, rho=0.1, model=net if named else None)
    optimizer.step(closure_of(net, optimizer, x, y))
    base.add_param_group({"params": list(net[4].parameters())})
    start, seen = net[4].weight.detach().clone(), []

    def closure():
        seen.append(net[4].weight.detach().clone())
        return closure_of(net, optimizer, x, y)()

    optimizer.step(closure)
    assert torch.equal(seen[0], start)
    assert not torch.equal(seen[1], start)
    assert not torch.equal(net[4].weight, start)


def test_a_parameter_put_in_place_of_another_is_named_anew():
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net), rho=0.1, model=net)
    optimizer.step(closure_of(net, optimizer, x, y))
    net[4] = nn.Linear(8, 5).double()
    optimizer.param_groups[0]["params"][-2:] = list(net[4].parameters())
    start = net[4].weight.detach().clone()
    optimizer.step(closure_of(net, optimizer, x, y))
    assert not torch.equal(net[4].weight, start)


def test_a_gradient_scaler_knows_both_optimizers_after_the_base_loaded_a_state():
    net, x, y = NETWORKS["mlp"]()
    net = net.float()
    base = sgd(net)
    optimizer, scaler = SharpnessAware(base, rho=0.1), GradScaler("cpu", init_scale=4.0)
    base.load_state_dict(base.state_dict())

    def closure():
        optimizer.zero_grad()
        loss = mean_loss(net(x.float()), y)
        scaler.scale(loss).backward()
        return loss

    for _ in range(2):
        optimizer.step(closure, scaler=scaler)
        scaler.update()
    assert optimizer.steps == 2
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("batch_norm", ["perturbed", "clean"])
@pytest.mark.parametrize("method", ["sam", "llqr_sam"])
def test_nothing_to_perturb_is_the_base_step_and_records_once(method, batch_norm):
    """rho = 0 on every group that has a gradient: the statistics are those of one pass, the update the base's."""

    def train(wrapped):
        torch.manual_seed(4)
        net, x, y = NETWORKS["conv"]()
        rest = list(net.parameters())
        net.extra = nn.Parameter(torch.zeros(2, dtype=torch.float64))  # has a radius, and no gradient
        base = torch.optim.SGD([{"params": rest, "rho": 0.0}, {"params": [net.extra]}], lr=0.1, momentum=0.9)
        metric = LLQR(net) if method == "llqr_sam" else None
        optimizer = SharpnessAware(base, rho=0.1, probe=metric, transport=metric, batch_norm=batch_norm, model=net)
        optimizer = optimizer if wrapped else base
        for _ in range(3):
            optimizer.step(closure_of(net, optimizer, x, y))
        return net.state_dict()

    assert identical(train(wrapped=True), train(wrapped=False))


def test_a_step_without_any_gradient_is_refused_and_moves_nothing():
    net, _, _ = NETWORKS["mlp"]()
    before = {n: p.clone() for n, p in net.state_dict().items()}
    for method in METHODS.values():
        optimizer = method(net)
        with pytest.raises(RuntimeError, match="left no gradient: it must call backward"):
            optimizer.step(lambda: 1.0)
        assert optimizer.steps == 0
    assert identical(net.state_dict(), before)


@pytest.mark.parametrize("rho", [-1.0, float("nan"), float("inf")])
def test_a_radius_is_finite_and_not_negative(rho):
    net, x, y = NETWORKS["mlp"]()
    message = f"rho={rho} must be >= 0"
    with pytest.raises(ValueError, match=message):
        SharpnessAware(sgd(net), rho=rho)
    with pytest.raises(ValueError, match=message):
        SharpnessAware(torch.optim.SGD([{"params": net.parameters(), "rho": rho}], lr=0.1))
    optimizer = SharpnessAware(torch.optim.SGD(net[0].parameters(), lr=0.1))
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": list(net[4].parameters()), "rho": rho})
    optimizer.param_groups[0]["rho"] = rho
    with pytest.raises(ValueError, match=message):
        optimizer.step(closure_of(net, optimizer, x, y))


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_sparse_gradients_need_no_metric(rho):
    """Those of a sparse embedding, under the identity, move it as dense ones do."""

    def train(sparse):
        torch.manual_seed(5)
        net = nn.Sequential(nn.Embedding(9, 4, sparse=sparse), nn.Flatten(), nn.Linear(8, 5))
        optimizer = SharpnessAware(torch.optim.SGD(net.parameters(), lr=0.1), rho=rho)
        x, y = torch.randint(0, 9, (6, 2)), torch.randint(0, 5, (6,))
        for _ in range(2):
            optimizer.step(closure_of(net, optimizer, x, y))
        return net[0].weight.detach()

    torch.testing.assert_close(train(sparse=True), train(sparse=False))
