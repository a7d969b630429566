"""Blocks of a network: what is stacked with what."""

from __future__ import annotations

import pytest

from llqr_sam.methods.assembly import assemble
from llqr_sam.methods.diagonal import Diagonal
from llqr_sam.methods.distributed import Ranks
from tests.methods.networks import NETWORKS


@pytest.mark.parametrize("name", list(NETWORKS))
def test_kernels_of_one_shape_share_a_block(name):
    net, _, _ = NETWORKS[name]()
    kernels = [block for block in assemble(net, "kfac", Ranks()) if not isinstance(block, Diagonal)]
    assert len({(block.n, block.m) for block in kernels}) == len(kernels)


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_trainable_parameter_has_one_block(name, structure):
    net, _, _ = NETWORKS[name]()
    next(net.parameters()).requires_grad_(False)
    held = [n for block in assemble(net, structure, Ranks()) for n in block.named_factors()]
    assert sorted(held) == sorted(n for n, p in net.named_parameters() if p.requires_grad)


def test_diagonal_is_one_flat_block():
    net, _, _ = NETWORKS["conv"]()
    (block,) = assemble(net, "diagonal", Ranks())
    assert block.factors["d"].numel() == sum(p.numel() for p in net.parameters())
