"""The identity (docs/lqr_identity.md) by simulating the layerwise problem, and J(U) and dJ/dU against LLQR itself."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from llqr_sam import LLQR
from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.methods.blocks.layout import layout
from llqr_sam.methods.curvature.likelihoods import Categorical
from llqr_sam.methods.curvature.point import point_of
from llqr_sam.methods.curvature.products import Fisher, Hessian
from llqr_sam.methods.named import dot
from llqr_sam.studies.theory.control.rollout import adjoint, apply_metric, relaxed_objective, rollout
from llqr_sam.studies.theory.control.stages import layerwise_lqr
from tests.studies.theory.control.networks import CHAINS, AddHalves, Beside, Residual, SecondHalf, mean_loss, randomised


def _curvature(net, x, y, divergence, reduction="sum"):
    if divergence == "newton":
        return Hessian("for comparison").at(point_of(net, x, y, mean_loss))
    return Fisher(Categorical(), reduction).at(point_of(net, x, y, mean_loss))


def _random_like(net):
    return {n: torch.randn_like(p) for n, p in net.named_parameters()}


def _assert_same(actual, expected):
    """Relative error of the whole vector at most 1e-10."""
    assert actual.keys() == expected.keys()
    error = {n: actual[n] - expected[n] for n in expected}
    assert dot(error, error).sqrt() <= 1e-10 * dot(expected, expected).sqrt()


@pytest.mark.parametrize("name", list(CHAINS))
@pytest.mark.parametrize("divergence", ["ngd", "newton"])
def test_cost_and_adjoint_equal_the_curvature_form(name, divergence):
    """Any displacement: J = g'd + d'Hd/2 and dJ/dd = g + H d, to 1e-10."""
    net, x, y = CHAINS[name]()
    delta = _random_like(net)
    problem = layerwise_lqr(net, x, y, mean_loss, divergence=divergence)
    curvature = _curvature(net, x, y, divergence)
    h_delta = curvature.product(delta)
    trajectory = rollout(problem, delta)
    expected = dot(curvature.gradient, delta) + 0.5 * dot(delta, h_delta)
    torch.testing.assert_close(trajectory.cost, expected, rtol=1e-10, atol=0)
    _assert_same(adjoint(problem, trajectory), {n: curvature.gradient[n] + h for n, h in h_delta.items()})


def test_mean_reduction_and_damping_agree_too():
    net, x, y = CHAINS["gelu"]()
    delta = _random_like(net)
    problem = layerwise_lqr(net, x, y, mean_loss, reduction="mean", damping=0.3)
    curvature = _curvature(net, x, y, "ngd", "mean")
    c = {n: curvature.gradient[n] + h + 0.3 * delta[n] for n, h in curvature.product(delta).items()}
    _assert_same(adjoint(problem, rollout(problem, delta)), c)


@pytest.mark.parametrize("divergence", ["ngd", "newton"])
def test_the_adjoint_is_autograds_derivative_of_the_cost(divergence):
    net, x, y = CHAINS["gelu"]()
    problem = layerwise_lqr(net, x, y, mean_loss, divergence=divergence)
    delta = {n: d.requires_grad_() for n, d in _random_like(net).items()}
    gradients = torch.autograd.grad(rollout(problem, delta).cost, list(delta.values()))
    detached = {n: d.detach() for n, d in delta.items()}
    _assert_same(adjoint(problem, rollout(problem, detached)), dict(zip(delta, gradients, strict=True)))


def test_states_are_the_networks_directional_derivative():
    """delta x_N along a rollout is J delta: central differences of the network itself."""
    net, x, y = CHAINS["gelu"]()
    delta = _random_like(net)
    end = rollout(layerwise_lqr(net, x, y, mean_loss), delta).states[-1]
    start = {n: p.detach().clone() for n, p in net.named_parameters()}

    def outputs(step):
        return torch.func.functional_call(net, {n: start[n] + step * delta[n] for n in start}, (x,)).reshape(-1)

    torch.testing.assert_close((outputs(1e-5) - outputs(-1e-5)).detach() / 2e-5, end, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("divergence", ["ngd", "newton"])
def test_staging_does_not_matter(divergence):
    """A residual block as one stage, or as a chain whose state carries the skip along: same J, same dJ/dd.

    The states and the costs Q, R and M differ between the two; what is left after eliminating them does not.
    """
    first, inner, last = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)
    block = nn.Sequential(first, Residual(nn.Tanh(), inner, nn.GELU()), last).double()
    chain = nn.Sequential(
        first, Beside(nn.Tanh()), SecondHalf(inner), SecondHalf(nn.GELU()), AddHalves(), last
    ).double()
    x, y = torch.randn(6, 5).double(), torch.randint(0, 3, (6,))
    torch.testing.assert_close(block(x), chain(x), rtol=1e-12, atol=1e-14)
    names = dict(zip(dict(block.named_parameters()), dict(chain.named_parameters()), strict=True))
    delta = _random_like(block)
    results = []
    for net, d in ((block, delta), (chain, {names[n]: t for n, t in delta.items()})):
        problem = layerwise_lqr(net, x, y, mean_loss, divergence=divergence)
        trajectory = rollout(problem, d)
        results.append((trajectory.cost, adjoint(problem, trajectory)))
    (cost, gradient), (chain_cost, chain_gradient) = results
    torch.testing.assert_close(chain_cost, cost, rtol=1e-10, atol=0)
    _assert_same(chain_gradient, {names[n]: g for n, g in gradient.items()})


STRUCTURES = get_args(Structure)


def _random_metric(net, **options):
    """U away from the identity; one unclipped inner step moves it by -inner_lr dJ/dU."""
    metric = LLQR(net, inner_steps=1, inner_momentum=0.0, clip_norm=1e9, ema=0.0, inner_lr=1e-2, **options)
    randomised(metric.named_factors())
    return metric


@pytest.mark.slow
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("divergence", ["ngd", "newton"])
@pytest.mark.parametrize("name", list(CHAINS))
def test_objective_and_gradient_equal_the_layerwise_rollout(name, divergence, structure):
    """Eliminating the dynamics changes nothing: J(U) and dJ/dU are the rollout's, to 1e-10 (docs/lqr_identity.md)."""
    net, x, y = CHAINS[name]()
    metric = _random_metric(net, divergence=divergence, structure=structure)
    before = {n: {k: f.clone() for k, f in own.items()} for n, own in metric.named_factors().items()}
    problem = layerwise_lqr(net, x, y, mean_loss, divergence=divergence)
    cost, gradient = relaxed_objective(problem, layout(net)[0], before)
    report = metric.refresh(x, y, mean_loss)
    assert report.objective_before == pytest.approx(float(cost), rel=1e-10)
    assert {n: set(own) for n, own in gradient.items()} == {n: set(own) for n, own in before.items()}
    moved = [(before[n][k] - f) / 1e-2 for n, own in metric.named_factors().items() for k, f in own.items()]
    expected = [gradient[n][k] for n, own in metric.named_factors().items() for k in own]
    error = torch.cat([(m - e).reshape(-1) for m, e in zip(moved, expected, strict=True)]).norm()
    assert error <= 1e-10 * torch.cat([e.reshape(-1) for e in expected]).norm()


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", list(CHAINS))
def test_plain_and_stacked_metric_agree(name, structure):
    net, _, _ = CHAINS[name]()
    metric = _random_metric(net, structure=structure)
    v = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    expected = metric.apply(v)
    for n, x in apply_metric(layout(net)[0], metric.named_factors(), v).items():
        torch.testing.assert_close(x, expected[n], rtol=1e-12, atol=1e-12)
