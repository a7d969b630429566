"""Parameters as matrices: which, of what shape, and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llqr_sam.methods.layout import layout
from tests.methods.networks import NETWORKS


def _shapes(model):
    kernels, vectors = layout(model)
    return {k.name: (k.parts, k.n, k.m) for k in kernels}, [v.name for v in vectors]


def test_convolutions_flatten_into_the_fan_in():
    net, _, _ = NETWORKS["conv"]()
    kernels, vectors = _shapes(net)
    assert kernels == {
        "stem.weight": (1, 4, 18),
        "grouped.weight": (1, 4, 18),
        "depthwise.weight": (1, 4, 9),
        "up.weight": (1, 3, 16),  # stored (in, out, 2, 2)
        "head.weight": (1, 5, 3),
    }
    assert set(vectors) == {"norm.weight", "norm.bias", "grouped.bias", "depthwise.bias", "up.bias", "head.bias"}


def test_attention_splits_in_three_and_positions_are_rows_by_width():
    net, _, _ = NETWORKS["transformer"]()
    kernels, _ = _shapes(net)
    assert kernels["encoder.layers.0.self_attn.in_proj_weight"] == (3, 8, 8)
    assert kernels["position"] == (1, 6, 8)
    assert kernels["embed.weight"] == (1, 7, 8)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_matrices_round_trip(name):
    net, _, _ = NETWORKS[name]()
    for kernel in layout(net)[0]:
        tensor = torch.randn(kernel.shape)
        matrices = kernel.matrices(tensor)
        assert matrices.shape == (kernel.parts, kernel.n, kernel.m)
        assert torch.equal(kernel.tensor(matrices), tensor)


def test_transposed_convolution_gathers_each_output_in_one_row():
    layer = nn.ConvTranspose2d(2, 3, 2)
    (kernel,), _ = layout(layer)
    rows = kernel.matrices(layer.weight)[0]
    assert torch.equal(rows[1], layer.weight[:, 1].reshape(-1))


def test_frozen_parameters_are_left_out():
    net = nn.Linear(3, 2)
    net.bias.requires_grad_(False)
    kernels, vectors = layout(net)
    assert [k.name for k in kernels] == ["weight"]
    assert vectors == []


def test_parameters_of_the_network_itself_are_no_layer():
    """A class token and a position embedding are clipped each alone; the weight and bias of a layer together."""
    net, _, _ = NETWORKS["transformer"]()
    net.token = nn.Parameter(torch.zeros(8))
    kernels, vectors = layout(net)
    layers = {part.name: part.layer for part in (*kernels, *vectors)}
    assert (layers["position"], layers["token"]) == ("position", "token")
    assert layers["head.weight"] == layers["head.bias"] == "head"
    (kernel,), (vector,) = layout(nn.Linear(3, 2))
    assert kernel.layer == vector.layer


def test_a_fused_bias_has_the_parts_of_its_weight():
    net, _, _ = NETWORKS["transformer"]()
    parts = {vector.name: vector.parts for vector in layout(net)[1]}
    assert parts["encoder.layers.0.self_attn.in_proj_bias"] == 3
    assert sum(parts.values()) == len(parts) + 2 * 2
    net.requires_grad_(False)
    net.encoder.layers[0].self_attn.in_proj_bias.requires_grad_(True)
    (vector,) = layout(net)[1]
    assert vector.parts == 3
