"""Predictive distributions: their Fisher matrices at the outputs."""

from __future__ import annotations

import doctest

import pytest
import torch

from llqr_sam.methods.curvature import likelihoods
from llqr_sam.methods.curvature.likelihoods import Bernoulli, Categorical, Gaussian, counted, likelihood_of
from llqr_sam.methods.curvature.point import point_of
from llqr_sam.methods.curvature.products import Fisher
from tests.methods.padded import WAYS, dense_fisher, network, padded_labels


def test_categorical_is_diag_p_minus_outer_product():
    z, u = torch.randn(2, 4, 5, dtype=torch.float64).unbind()
    p = z.softmax(-1)
    dense = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    product, count = Categorical().fisher(z, torch.zeros(4).long())
    torch.testing.assert_close(product(u), torch.einsum("ncd,nd->nc", dense, u))
    assert count == 4


def test_log_probabilities_are_as_good_as_logits():
    z, u = torch.randn(2, 4, 5, dtype=torch.float64).unbind()
    targets = torch.zeros(4).long()
    logits, _ = Categorical().fisher(z, targets)
    normalised, _ = Categorical().fisher(z.log_softmax(-1), targets)
    torch.testing.assert_close(logits(u), normalised(u))


def test_padding_has_no_distribution():
    z, u = torch.randn(2, 2, 3, 5).unbind()
    targets = torch.tensor([[1, 2, -100], [0, -100, -100]])
    product, count = Categorical().fisher(z, targets)
    assert count == 3
    assert product(u)[targets == -100].eq(0).all()
    whole, _ = Categorical().fisher(z, targets.clamp_min(0))
    assert torch.equal(product(u)[targets != -100], whole(u)[targets != -100])


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_fisher_matrix_leaves_padding_out(way, reduction):
    """However the minibatch says what is padding: token by token, by hand, over those that count."""
    padded = WAYS[way]
    net, x = network(padded.flat)
    targets = padded.targets(padded_labels())
    curvature = Fisher(padded.likelihood, reduction).at(point_of(net, x, targets, padded.loss_fn))
    v = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    expected = dense_fisher(net, x, padded.kept) @ torch.cat([t.flatten() for t in v.values()])
    if reduction == "mean":
        expected = expected / padded.kept.sum()
    actual = torch.cat([t.flatten() for t in curvature.product(v).values()])
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [Bernoulli, Gaussian])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_missing_outputs_have_no_distribution(kind, reduction):
    """Of a linear layer z = W x, by hand: H = sum of M_nc x_n x_n' for each output c that counts."""
    net, x = torch.nn.Linear(4, 3, bias=False).double(), torch.randn(6, 4, dtype=torch.float64)
    kept = torch.rand(6, 3) < 0.5
    kept[2] = False
    point = point_of(net, x, torch.rand(6, 3), lambda z, t: (z - t).square().mean())
    curvature = Fisher(kind(mask=lambda z, t: kept), reduction).at(point)
    p = net(x).detach().sigmoid()
    m = (p * (1 - p) if kind is Bernoulli else torch.ones_like(p)) * kept
    v = torch.randn(3, 4, dtype=torch.float64)
    expected = torch.einsum("nc,nd,ne,ce->cd", m, x, x, v)
    if reduction == "mean":
        expected = expected / kept.any(1).sum()
    torch.testing.assert_close(curvature.product({"weight": v})["weight"], expected, rtol=1e-10, atol=1e-12)


def test_a_mask_replaces_the_ignored_index():
    z, targets = torch.randn(4, 5), torch.tensor([-100, 1, 2, -100])
    mask = torch.tensor([True, False, True, False])
    assert torch.equal(counted(Categorical(mask=lambda outputs, targets: mask), z, targets), mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3, 6), r"mask is torch.float32 \[3, 6\]; it must be torch.bool \[3, 6\]"),
        (torch.ones(6, 3, dtype=torch.bool), r"mask is torch.bool \[6, 3\]; it must be torch.bool \[3, 6\]"),
        (torch.ones(3, dtype=torch.bool), r"mask is torch.bool \[3\]; it must be torch.bool \[3, 6\]"),
    ],
)
def test_a_mask_of_another_kind_is_named(mask, message):
    with pytest.raises(ValueError, match=message):
        Categorical(mask=lambda outputs, targets: mask).fisher(torch.randn(3, 6, 5), torch.zeros(3, 6).long())


def test_integers_in_another_order_are_not_taken_for_classes():
    """Targets ``[T, N]`` have as many entries as outputs ``[N, T, C]``, and a reshape would mix them."""
    targets = torch.full((6, 3), -100)
    assert counted(Categorical(), torch.randn(3, 6, 5), targets).all()


def test_classes_on_axis_1():
    """Of ``[N, C, H, W]``, the layout of torch's own losses: what moving the axis gives."""
    z, u = torch.randn(2, 3, 4, 5, 2, dtype=torch.float64).unbind()
    targets = torch.randint(-1, 4, (3, 5, 2))
    product, count = Categorical(ignore_index=-1, axis=1).fisher(z, targets)
    moved, expected_count = Categorical(ignore_index=-1).fisher(z.movedim(1, -1), targets)
    torch.testing.assert_close(product(u), moved(u.movedim(1, -1)).movedim(-1, 1), rtol=1e-12, atol=1e-15)
    assert count == expected_count == (targets != -1).sum()


def test_targets_tell_on_which_axis_the_classes_are():
    images, tokens = torch.randn(3, 4, 5, 2), torch.randn(3, 6, 5)
    with pytest.raises(ValueError, match=r"axis 1, and the likelihood on axis -1.*=Categorical\(axis=1"):
        Categorical().fisher(images, torch.zeros(3, 5, 2).long())
    with pytest.raises(ValueError, match=r"axis 2, and the likelihood on axis 1.*=Categorical\(axis=2"):
        Categorical(axis=1).fisher(tokens, torch.zeros(3, 6).long())
    Categorical().fisher(tokens, torch.zeros(3, 6).long())
    Categorical().fisher(torch.randn(3, 5, 5), torch.zeros(3, 5).long())  # fits either
    Categorical().fisher(images, torch.rand(3, 4, 5, 2))  # soft targets do not tell


@pytest.mark.parametrize("shape", [(6, 1), (6,)])
def test_one_class_is_no_choice(shape):
    """Its H would be 0, and that of one logit a sample a softmax over the minibatch."""
    with pytest.raises(ValueError, match='have no classes to choose from.*"bernoulli".*"gaussian"'):
        Categorical().fisher(torch.randn(shape), torch.zeros(shape))


def test_bernoulli_is_a_softmax_of_two():
    """sigma(z) is the softmax of (0, z)."""
    z, u = torch.randn(2, 6, 3, dtype=torch.float64).unbind()
    product, count = Bernoulli().fisher(z, torch.zeros(6, 3))
    two = lambda t: torch.stack([torch.zeros_like(t), t], dim=-1)  # noqa: E731
    expected, _ = Categorical().fisher(two(z), None)
    torch.testing.assert_close(product(u), expected(two(u))[..., 1])
    assert count == 6


def test_gaussian_is_the_identity():
    u = torch.randn(4, 2)
    product, count = Gaussian().fisher(torch.randn(4, 2), None)
    assert torch.equal(product(u), u)
    assert count == 4


def test_names():
    assert isinstance(likelihood_of("gaussian"), Gaussian)
    assert isinstance(likelihood_of("bernoulli"), Bernoulli)
    assert likelihood_of(Categorical(ignore_index=1)).ignore_index == 1
    with pytest.raises(ValueError, match="likelihood=poisson is not known. Choose from: categorical, gaussian"):
        likelihood_of("poisson")


def test_the_examples_of_the_documentation_run():
    assert not doctest.testmod(likelihoods).failed
