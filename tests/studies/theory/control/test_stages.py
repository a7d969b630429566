"""The layerwise problem: its operators and costs, one by one, and what they add up to."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from llqr_sam.methods.curvature.point import point_of
from llqr_sam.methods.curvature.products import Hessian
from llqr_sam.studies.theory.control.stages import layerwise_lqr
from tests.studies.theory.control.networks import CHAINS, mean_loss


def _close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_a_linear_stage_is_its_own_linearisation():
    """x W' + b per sample: A is I (x) W, B holds the inputs, and the Hamiltonian is bilinear, so Q = R = 0."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    x, y = torch.randn(5, 3).double(), torch.randint(0, 2, (5,))
    stage = layerwise_lqr(net, x, y, mean_loss, divergence="newton").stages[1]
    hidden = net[0](x).detach()
    samples, outputs = torch.eye(5).double(), torch.eye(2).double()
    _close(stage.A, torch.kron(samples, net[1].weight.detach()))
    _close(stage.B[:, :8], torch.einsum("so,ni->nsoi", outputs, hidden).reshape(10, 8))
    _close(stage.B[:, 8:], outputs.repeat(5, 1))
    assert not stage.Q.any()
    assert not stage.R.any()
    assert stage.M.any()


def test_the_minibatch_is_not_a_state():
    problem = layerwise_lqr(*CHAINS["relu"](), mean_loss)
    assert problem.stages[0].A.shape == (42, 0)
    assert [tuple(stage.B.shape) for stage in problem.stages] == [(42, 36), (42, 0), (42, 42), (42, 0), (28, 28)]


@pytest.mark.parametrize(("reduction", "scale"), [("sum", 1.0), ("mean", 1 / 7)])
def test_natural_gradient_costs_the_output_alone(reduction, scale):
    """Q_N = s (diag p - p p') per sample; Q, R and M are zero."""
    net, x, y = CHAINS["relu"]()
    problem = layerwise_lqr(net, x, y, mean_loss, reduction=reduction)
    p = net(x).detach().softmax(-1)
    per_sample = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    _close(problem.terminal_cost, scale * torch.block_diag(*per_sample))
    assert not any(cost.any() for stage in problem.stages for cost in (stage.Q, stage.R, stage.M))


def test_newton_costs_the_outputs_by_the_losss_hessian():
    """Label smoothing leaves it at (diag p - p p') / n."""
    net, x, y = CHAINS["relu"]()
    problem = layerwise_lqr(net, x, y, mean_loss, divergence="newton")
    _close(problem.terminal_cost, layerwise_lqr(net, x, y, mean_loss, reduction="mean").terminal_cost)


def test_relu_stages_without_parameters_cost_nothing():
    problem = layerwise_lqr(*CHAINS["relu"](), mean_loss, divergence="newton")
    assert not problem.stages[1].Q.any()
    assert problem.stages[1].R.shape == (0, 0)


@pytest.mark.parametrize("name", list(CHAINS))
def test_costates_give_the_gradient(name):
    net, x, y = CHAINS[name]()
    expected = Hessian("for comparison").at(point_of(net, x, y, mean_loss)).gradient
    gradient = layerwise_lqr(net, x, y, mean_loss).gradient()
    assert list(gradient) == list(expected)
    for parameter, g in gradient.items():
        _close(g, expected[parameter])


def test_gaussian_outputs_cost_the_identity():
    net, x, _ = CHAINS["relu"]()
    problem = layerwise_lqr(net, x, torch.randn(7, 4).double(), nn.functional.mse_loss, likelihood="gaussian")
    assert torch.equal(problem.terminal_cost, torch.eye(28).double())


def test_damping_is_a_cost_of_the_controls():
    net, x, y = CHAINS["gelu"]()
    plain = layerwise_lqr(net, x, y, mean_loss, divergence="newton")
    damped = layerwise_lqr(net, x, y, mean_loss, divergence="newton", damping=0.5)
    for before, after in zip(plain.stages, damped.stages, strict=True):
        _close(after.R - before.R, 0.5 * torch.eye(len(after.R)).double())
        assert torch.equal(after.Q, before.Q)


def test_second_derivatives_are_the_hamiltonians():
    """Q, R and M of a residual block against autograd's Hessian of lambda' f, taken directly."""
    net, x, y = CHAINS["gelu"]()
    problem = layerwise_lqr(net, x, y, mean_loss, divergence="newton")
    hidden = net[0](x).detach()
    costate = (problem.stages[2].A.T @ problem.terminal_gradient).view(6, 6)
    parameters = {n: p.detach() for n, p in net[1].named_parameters()}

    def hamiltonian(state, theta):
        pieces = theta.split([p.numel() for p in parameters.values()])
        named = {n: t.view_as(p) for (n, p), t in zip(parameters.items(), pieces, strict=True)}
        return (costate * functional_call(net[1], named, (state,))).sum()

    theta = torch.cat([p.reshape(-1) for p in parameters.values()])
    (xx, _), (tx, tt) = torch.autograd.functional.hessian(hamiltonian, (hidden, theta))
    stage = problem.stages[1]
    _close(stage.Q, xx.reshape(36, 36))
    _close(stage.M, tx.reshape(-1, 36))
    _close(stage.R, tt)
    assert all(cost.abs().max() > 1e-4 for cost in (stage.Q, stage.M, stage.R))


def test_leaves_the_network_as_it_found_it():
    net, x, y = CHAINS["conv"]()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    layerwise_lqr(net, x, y, mean_loss, divergence="newton")
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_frozen_parameters_are_no_controls():
    net, x, y = CHAINS["relu"]()
    net[0].bias.requires_grad_(False)
    assert list(layerwise_lqr(net, x, y, mean_loss).stages[0].shapes) == ["0.weight"]


def test_a_parameter_of_two_stages_is_refused():
    layer = nn.Linear(3, 3).double()
    with pytest.raises(ValueError, match="stages 0 and 2 share a parameter"):
        layerwise_lqr(
            nn.Sequential(layer, nn.ReLU(), layer), torch.randn(2, 3).double(), torch.tensor([0, 1]), mean_loss
        )


def test_single_precision_is_refused():
    with pytest.raises(ValueError, match=r"parameter 0.weight is torch.float32.*model.double\(\)"):
        layerwise_lqr(nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 3), torch.tensor([0, 1]), mean_loss)


def test_unknown_divergence_is_named():
    with pytest.raises(ValueError, match="divergence=fisher is not known"):
        layerwise_lqr(*CHAINS["relu"](), mean_loss, divergence="fisher")
