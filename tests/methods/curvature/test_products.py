"""Curvature products against dense matrices: autograd's own, and the authors'."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.autograd.functional import jacobian as jacobian_of
from torch.func import functional_call

from llqr_sam.methods.curvature.likelihoods import Categorical
from llqr_sam.methods.curvature.point import point_of
from llqr_sam.methods.curvature.products import Fisher, Hessian
from tests.golden_numbers import arrays, flatten, problem, symmetric, unflatten
from tests.methods.networks import NETWORKS, TinyTransformer, mean_loss


def _dense(net, x, y, kind):
    """Dense curvature of the mean loss, by reverse mode on the flat parameter vector in eval mode."""
    net = net.eval()
    names = [n for n, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]
    flat = torch.cat([p.detach().reshape(-1) for p in net.parameters()])

    def outputs(vector):
        pieces = torch.split(vector, [s.numel() for s in shapes])
        return functional_call(net, {n: t.view(s) for n, t, s in zip(names, pieces, shapes, strict=True)}, (x,))

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        if kind == "newton":
            return hessian(lambda v: mean_loss(outputs(v), y), flat)
        z = outputs(flat).detach().flatten(0, -2)
        jacobian = jacobian_of(lambda v: outputs(v).flatten(0, -2), flat)
    p = torch.softmax(z, -1)
    inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    return torch.einsum("nca,ncd,ndb->ab", jacobian, inner, jacobian)


def _random_like(net):
    return {n: torch.randn_like(p) for n, p in net.named_parameters()}


def _flat(named, net):
    return torch.cat([named[n].reshape(-1) for n, _ in net.named_parameters()])


@pytest.mark.parametrize("name", ["mlp", "conv", "transformer"])
@pytest.mark.parametrize("kind", ["ngd", "newton"])
def test_product_equals_dense_matrix(name, kind):
    net, x, y = NETWORKS[name]()
    v = _random_like(net)
    if kind == "ngd":
        curvature = Fisher(Categorical(), "sum").at(point_of(net, x, y, mean_loss))
    else:
        curvature = Hessian("for comparison").at(point_of(net, x, y, mean_loss))
    expected = _dense(net, x, y, kind) @ _flat(v, net)
    torch.testing.assert_close(_flat(curvature.product(v), net), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("kind", ["ngd", "newton"])
def test_product_is_symmetric_and_linear(name, kind):
    """Of every network, the LSTM's in-place kernels among them, for which there is no dense matrix here."""
    net, x, y = NETWORKS[name]()
    if kind == "ngd":
        curvature = Fisher(Categorical(), "sum").at(point_of(net, x, y, mean_loss))
    else:
        curvature = Hessian("for comparison").at(point_of(net, x, y, mean_loss))
    u, v = _random_like(net), _random_like(net)
    first, again = _flat(curvature.product(u), net), _flat(curvature.product(u), net)
    torch.testing.assert_close(first, again, rtol=1e-12, atol=1e-13)
    hu, hv = _flat(curvature.product(u), net), _flat(curvature.product(v), net)
    torch.testing.assert_close(_flat(u, net) @ hv, _flat(v, net) @ hu, rtol=1e-9, atol=1e-12)
    both = curvature.product({n: 2 * u[n] - v[n] for n in u})
    torch.testing.assert_close(_flat(both, net), 2 * hu - hv, rtol=1e-9, atol=1e-12)


def test_matches_the_authors_fisher_and_hessian(shared):
    net, x, y = problem()
    nll = nn.functional.nll_loss
    v = torch.randn(565, dtype=torch.float64)
    fisher = symmetric(arrays("mlp_fisher", shared / "golden")["F_mean_triu"])
    expected_hessian = symmetric(arrays("mlp_hessian", shared / "golden")["H_mean_triu"])
    summed = Fisher(Categorical(), "sum").at(point_of(net, x, y, nll))
    mean = Fisher(Categorical(), "mean").at(point_of(net, x, y, nll))
    newton = Hessian("for comparison").at(point_of(net, x, y, nll))
    torch.testing.assert_close(flatten(summed.product(unflatten(v))), 24 * fisher @ v, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(flatten(mean.product(unflatten(v))), fisher @ v, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(flatten(newton.product(unflatten(v))), expected_hessian @ v, rtol=1e-9, atol=1e-12)
    gradient = arrays("mlp_base")["grad_flat"]
    torch.testing.assert_close(flatten(summed.gradient), gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(flatten(newton.gradient), gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("matrix", [Hessian("for comparison"), Fisher(Categorical(), "sum")])
def test_leaves_the_network_as_it_found_it(matrix):
    """Modes, running statistics and gradients are the caller's."""
    net, x, y = NETWORKS["conv"]()
    net.train()
    net.norm.eval()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    matrix.at(point_of(net, x, y, mean_loss)).product(_random_like(net))
    assert net.training
    assert not net.norm.training
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_dropout_is_off():
    net, x, y = NETWORKS["transformer"]()
    net.train()
    v = _random_like(net)
    first = Fisher(Categorical(), "sum").at(point_of(net, x, y, mean_loss)).product(v)
    again = Fisher(Categorical(), "sum").at(point_of(net, x, y, mean_loss)).product(v)
    assert all(torch.equal(first[n], again[n]) for n in first)


def test_frozen_unused_and_tied_parameters():
    """A frozen parameter is no coordinate, an unused one has zero curvature, a tied one counts once."""
    net = TinyTransformer().double()
    net.spare = nn.Parameter(torch.ones(3, dtype=torch.float64))
    net.position.requires_grad_(False)
    net.encoder.layers[1].linear1.weight = net.encoder.layers[0].linear1.weight
    tokens, y = torch.randint(0, 7, (3, 6)), torch.randint(0, 5, (3, 6))
    curvatures = (
        Fisher(Categorical(), "sum").at(point_of(net, tokens, y, mean_loss)),
        Hessian("for comparison").at(point_of(net, tokens, y, mean_loss)),
    )
    for curvature in curvatures:
        names = {n for n, p in net.named_parameters() if p.requires_grad}
        assert curvature.gradient.keys() == names
        assert "position" not in names
        product = curvature.product({n: torch.randn_like(net.get_parameter(n)) for n in names})
        assert product["spare"].eq(0).all()


def test_model_must_return_a_tensor():
    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(TypeError, match="returns one tensor"):
        Hessian("for comparison").at(point_of(Two(2, 2), torch.randn(3, 2), torch.zeros(3).long(), mean_loss))


def test_inputs_may_be_a_tuple_or_a_mapping():
    class Sum(nn.Linear):
        def forward(self, x, shift):
            return super().forward(x + shift)

    net, x, y = Sum(3, 4), torch.randn(5, 3), torch.randint(0, 4, (5,))
    by_place = Hessian("for comparison").at(point_of(net, (x, x), y, mean_loss)).gradient
    by_name = Hessian("for comparison").at(point_of(net, {"x": x, "shift": x}, y, mean_loss)).gradient
    assert torch.equal(by_place["weight"], by_name["weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["conv", "transformer"])
def test_half_precision_networks_are_linearised_in_float32(name, dtype):
    """Parameters, buffers and inputs in half precision: the products are float32 and those of the float32 network."""
    net, x, y = NETWORKS[name]()
    half = net.to(dtype)
    inputs = x if x.dtype == torch.int64 else x.to(dtype)
    product = Fisher(Categorical(), "sum").at(point_of(half, inputs, y, mean_loss))
    v = {n: torch.randn(p.shape) for n, p in half.named_parameters()}
    from_half = product.product(v)
    assert all(p.dtype == dtype for p in half.parameters())
    single = half.float()
    inputs = x if x.dtype == torch.int64 else inputs.float()
    exact = Fisher(Categorical(), "sum").at(point_of(single, inputs, y, mean_loss))
    for n, expected in exact.product(v).items():
        assert from_half[n].dtype == torch.float32
        torch.testing.assert_close(from_half[n], expected, rtol=1e-5, atol=1e-6)
