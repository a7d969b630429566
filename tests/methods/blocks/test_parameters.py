"""Parameters that U can be built for, and models that changed since: each mistake is one sentence."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from llqr_sam import LLQR, SharpnessAware
from tests.methods.networks import NETWORKS, mean_loss
from tests.methods.training import closure_of, identical, sgd


class Complex(nn.Module):
    """A complex matrix between real inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 5, dtype=torch.cfloat))

    def forward(self, x):
        return (x.to(torch.cfloat) @ self.w).abs()


UNSUPPORTED = {
    "sparse": (
        lambda: nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 2)),
        "embedding 0 .*sparse=False",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), "0.weight has no shape.*run the model once"),
    "complex": (Complex, "w is complex.*real"),
}


@pytest.mark.parametrize("structure", ["diagonal", "kfac"])
@pytest.mark.parametrize("kind", list(UNSUPPORTED))
def test_what_u_cannot_be_learned_for_is_named(kind, structure):
    build, message = UNSUPPORTED[kind]
    with pytest.raises(ValueError, match=message):
        LLQR(build(), structure=structure)


def test_a_frozen_sparse_embedding_does_no_harm():
    net = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 5))
    net[0].requires_grad_(False)
    assert LLQR(net, inner_steps=1).refresh(torch.zeros(3, 2).long(), torch.zeros(3).long(), mean_loss).accepted


def test_complex_parameters_are_refused_without_a_metric_too():
    net = Complex()
    optimizer = SharpnessAware(sgd(net))
    with pytest.raises(ValueError, match="complex parameter.*real"):
        optimizer.step(closure_of(net, optimizer, torch.randn(3, 6), torch.zeros(3).long()))


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
def test_parameters_without_entries_are_left_out(structure):
    net = nn.Sequential(nn.Linear(6, 5), nn.Identity())
    net[1].nothing = nn.Parameter(torch.zeros(0, 3))
    metric = LLQR(net, structure=structure, inner_steps=2)
    plain = LLQR(net[0], structure=structure, inner_steps=2)
    x, y = torch.randn(8, 6), torch.randint(0, 5, (8,))
    assert metric.refresh(x, y, mean_loss).accepted
    plain.refresh(x, y, mean_loss)
    assert metric.storage == plain.storage
    v = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    expected = plain.apply({"weight": v["0.weight"], "bias": v["0.bias"]})
    torch.testing.assert_close(metric.apply(v)["0.weight"], expected["weight"])
    optimizer = SharpnessAware(sgd(net), rho=0.1, probe=metric, transport=metric)
    optimizer.step(closure_of(net, optimizer, x, y))
    assert net[0].weight.isfinite().all()


@pytest.mark.parametrize("structure", ["diagonal", "kfac"])
@pytest.mark.parametrize("move", ["double", "meta"])
def test_a_model_moved_after_building_is_named(structure, move):
    net, x, y = NETWORKS["mlp"]()
    net = net.float()
    metric = LLQR(net, structure=structure)
    optimizer = SharpnessAware(sgd(net), rho=0.1, probe=metric, transport=metric)
    net = net.double() if move == "double" else net.to("meta")
    message = r"now torch\.float\d\d on \w+, but U is torch\.float32 on cpu; build LLQR after"
    with pytest.raises(ValueError, match=message):
        metric.refresh(x, y, mean_loss)
    v = {name: torch.ones_like(p) for name, p in net.named_parameters()}
    for apply in (metric.apply, metric.apply_):
        with pytest.raises(ValueError, match=message):
            apply(v)
    if move == "double":
        with pytest.raises(ValueError, match=message):
            optimizer.step(closure_of(net, optimizer, x, y))


def test_half_precision_needs_no_other_u():
    """U is float32 for it as well."""
    net = NETWORKS["mlp"]()[0].float()
    metric = LLQR(net)
    v = {name: torch.ones_like(p) for name, p in net.bfloat16().named_parameters()}
    assert identical(metric.apply(v), v)


def test_a_head_of_another_width_is_named():
    net, x, y = NETWORKS["mlp"]()
    metric = LLQR(net, structure="kfac")
    net[4] = nn.Linear(8, 7).double()
    with pytest.raises(ValueError, match=r"4\.bias became \(7,\) .*build a new one"):
        metric.refresh(x, y, mean_loss)
    with pytest.raises(ValueError, match=r"4.weight is \(7, 8\), but U was built for \(5, 8\)"):
        metric.apply({"4.weight": torch.ones(7, 8).double()})


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
def test_the_state_of_other_shapes_or_another_divergence_is_refused(structure):
    """And nothing of it is loaded."""
    metric = LLQR(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5)), structure=structure)
    other = LLQR(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4)), structure=structure)
    newton = LLQR(metric.model, structure=structure, divergence="newton")
    for another in (other, newton):
        for factors in another.named_factors().values():
            for factor in factors.values():
                factor.mul_(2)
    before = copy.deepcopy(metric.named_factors())
    with pytest.raises(ValueError, match=r"the saved U has \{.* for 1\.(weight|bias), this one \{.*of another model"):
        metric.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="divergence=newton.*divergence=ngd"):
        metric.load_state_dict(newton.state_dict())
    assert all(identical(factors, before[name]) for name, factors in metric.named_factors().items())


def test_an_empty_minibatch_is_named():
    net, x, y = NETWORKS["mlp"]()
    with pytest.raises(ValueError, match="the preconditioner minibatch is empty"):
        LLQR(net, chunk_size=2).refresh(x[:0], y[:0], mean_loss)


def test_data_parallel_is_looked_through():
    net, x, y = NETWORKS["mlp"]()
    parallel = nn.DataParallel(net)
    metric = LLQR(parallel, inner_steps=2)
    assert metric.model is net
    assert metric.refresh(x, y, mean_loss).accepted
    optimizer = SharpnessAware(sgd(net), rho=0.1, probe=metric, transport=metric, model=parallel)
    assert optimizer.step(closure_of(parallel, optimizer, x, y)).isfinite()


def test_a_base_that_evaluates_the_loss_itself_is_refused():
    net, _, _ = NETWORKS["mlp"]()
    for base in (torch.optim.LBFGS(net.parameters()), SharpnessAware(sgd(net))):
        with pytest.raises(ValueError, match=f"base={type(base).__name__} .*wrap one"):
            SharpnessAware(base)


def test_a_step_without_a_closure_says_what_one_is():
    optimizer = SharpnessAware(sgd(NETWORKS["mlp"]()[0]))
    for arguments in ((), (None,)):
        with pytest.raises(TypeError, match="needs a closure"):
            optimizer.step(*arguments)
