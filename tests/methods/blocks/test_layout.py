"""Parameters as matrices: which, of what shape, and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llqr_sam.methods.blocks.layout import layout
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


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_parametrized_weights_are_sorted_like_the_weights_they_stand_for():
    """Weight norm's directions are the kernel and its lengths a vector, however torch stores the two."""
    utils = nn.utils
    conv, up = lambda: nn.Conv2d(4, 6, 3), lambda: nn.ConvTranspose2d(4, 6, 2)
    layers = {
        "new": utils.parametrizations.weight_norm(conv()),
        "old": utils.weight_norm(conv()),
        "spectral": utils.parametrizations.spectral_norm(conv()),
        "old_spectral": utils.spectral_norm(conv()),
        "up": utils.parametrizations.weight_norm(up(), dim=1),
        "linear": utils.parametrizations.weight_norm(nn.Linear(4, 6), dim=1),
        "words": utils.parametrizations.weight_norm(nn.Embedding(9, 4)),
        "old_words": utils.weight_norm(nn.Embedding(9, 4)),
    }
    kernels, vectors = layout(nn.ModuleDict(layers))
    assert {k.name: (k.n, k.m, k.input_first, k.vocabulary, k.layer) for k in kernels} == {
        "new.parametrizations.weight.original1": (6, 36, False, False, "new"),
        "old.weight_v": (6, 36, False, False, "old"),
        "spectral.parametrizations.weight.original": (6, 36, False, False, "spectral"),
        "old_spectral.weight_orig": (6, 36, False, False, "old_spectral"),
        "up.parametrizations.weight.original1": (6, 16, True, False, "up"),
        "linear.parametrizations.weight.original1": (6, 4, False, False, "linear"),
        "words.parametrizations.weight.original1": (9, 4, False, True, "words"),
        "old_words.weight_v": (9, 4, False, True, "old_words"),
    }
    lengths = {v.name: v.layer for v in vectors if not v.name.endswith("bias")}
    assert lengths == {
        "new.parametrizations.weight.original0": "new",
        "old.weight_g": "old",
        "up.parametrizations.weight.original0": "up",
        "linear.parametrizations.weight.original0": "linear",
        "words.parametrizations.weight.original0": "words",
        "old_words.weight_g": "old_words",
    }
    assert not any(v.fallback for v in vectors)


def test_a_parametrized_layer_alone_is_one_layer():
    kernels, vectors = layout(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    assert {part.layer for part in (*kernels, *vectors)} == {""}


def test_a_fused_projection_under_a_parametrization_is_still_split_in_three():
    net = nn.Module()
    net.qkv = nn.utils.parametrizations.weight_norm(nn.Linear(4, 12))
    (kernel,), vectors = layout(net)
    assert kernel.parts == 3
    assert {vector.name: vector.parts for vector in vectors}["qkv.bias"] == 3


def test_norm_scales_are_vectors_whatever_their_shape():
    norms = nn.ModuleList([nn.LayerNorm([8, 6, 6]), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)])
    kernels, vectors = layout(norms)
    assert kernels == []
    assert len(vectors) == 6
    assert not any(v.fallback for v in vectors)


class Bare(nn.Module):
    """Parameters of no layer."""

    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        self.inner = nn.Identity()


def test_rows_by_width_and_what_is_long_along_one_axis():
    """Positions and class tokens are kernels (docs/methods.md, section 2.3); a channel scale is a vector."""
    net = Bare(
        position=(1, 6, 8), grid=(1, 3, 2, 8), table=(6, 8), token=(1, 1, 8), flat_token=(1, 8),
        layer_scale=(8, 1, 1), gamma=(1, 8, 1, 1), column=(8, 1), bias=(1, 4, 4), nothing=(0, 3), experts=(3, 4, 5),
    )  # fmt: skip
    kernels, vectors = _shapes(net)
    assert kernels == {
        "position": (1, 6, 8),
        "grid": (1, 6, 8),
        "table": (1, 6, 8),
        "token": (1, 1, 8),
        "flat_token": (1, 1, 8),
    }
    assert vectors == ["layer_scale", "gamma", "column", "bias", "nothing", "experts"]
    assert [v.name for v in layout(net)[1] if v.fallback] == ["experts"]


def test_thin_layers_keep_their_matrix():
    kernels, _ = _shapes(nn.ModuleList([nn.Linear(1, 5), nn.Linear(5, 1), nn.Conv2d(1, 4, 1), nn.Embedding(7, 1)]))
    assert list(kernels.values()) == [(1, 5, 1), (1, 1, 5), (1, 4, 1), (1, 7, 1)]


def test_a_bag_of_words_is_a_vocabulary():
    (kernel,), _ = layout(nn.EmbeddingBag(20, 8))
    assert kernel.vocabulary


def test_recurrent_and_bilinear_weights_are_vectors_that_say_so():
    layers = {"lstm": nn.LSTM(3, 4), "cell": nn.GRUCell(3, 4), "bilinear": nn.Bilinear(3, 4, 5)}
    kernels, vectors = layout(nn.ModuleDict(layers))
    assert kernels == []
    assert [v.name for v in vectors if v.fallback] == [
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
        "cell.weight_ih",
        "cell.weight_hh",
        "bilinear.weight",
    ]


def test_a_compiled_child_is_a_child():
    net = nn.Sequential(torch.compile(nn.Linear(3, 3), backend="eager"), nn.Linear(3, 2))
    net.token = nn.Parameter(torch.zeros(1, 3))
    assert {k.name: k.layer for k in layout(net)[0]}["token"] == "token"
