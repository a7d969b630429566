"""Predictive distributions: their Fisher matrices at the outputs."""

from __future__ import annotations

import pytest
import torch

from llqr_sam.methods.likelihoods import Categorical, Gaussian, likelihood_of


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


def test_gaussian_is_the_identity():
    u = torch.randn(4, 2)
    product, count = Gaussian().fisher(torch.randn(4, 2), None)
    assert torch.equal(product(u), u)
    assert count == 4


def test_names():
    assert isinstance(likelihood_of("gaussian"), Gaussian)
    assert likelihood_of(Categorical(ignore_index=1)).ignore_index == 1
    with pytest.raises(ValueError, match="likelihood=poisson is not known. Choose from: categorical, gaussian"):
        likelihood_of("poisson")
