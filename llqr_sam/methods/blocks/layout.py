"""How parameters become matrices: kernels of weights, vectors of biases and norm scales (docs/methods.md, section 2.3).

Notation: n is the fan-out and m the fan-in. The paper's kernel is X in R^{m x n}; PyTorch stores its transpose, so a
kernel here is W = X', ``[n, m]``, and U X = A X B' reads U W = B W A'. A weight that is no such matrix, of a recurrent
layer or of three axes and more, is a vector too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import ParametrizationList

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
LAYERS = (nn.Linear, _ConvNd, *EMBEDDINGS)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
# The three weights of torch's attention where keys or values have a width of their own; else one weight is fused.
SEPARATE = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class Vector:
    """One bias or norm scale, preconditioned elementwise; under the diagonal structure any parameter."""

    name: str
    shape: torch.Size  # as stored
    layer: str = ""  # what the diagonal structure clips as a whole: the module, or a parameter that is of no layer
    parts: int = 1  # slices of the first axis that are clipped each by itself: three in a fused query-key-value layer
    third: int | None = None  # index among the three where a layer stores them separately
    fallback: bool = False  # whether it is a weight whose shape is no matrix

    def slices(self) -> list[tuple[int, int]]:
        """Returns (n_slices, index) for each part, as of a fused layer."""
        return [(self.parts, i) for i in range(self.parts)] if self.third is None else [(3, self.third)]


@dataclass(frozen=True, kw_only=True)
class Kernel(Vector):
    """A weight that is also ``parts`` matrices ``[n, m]``, n the fan-out and m the fan-in."""

    n: int
    m: int
    input_first: bool = False  # stored as (in, out, ...), as transposed convolutions are
    vocabulary: bool = False  # belongs to an embedding, a row a word, whether or not an output layer shares it

    def matrices(self, tensor: Tensor) -> Tensor:
        """Weight-shaped tensor -> ``[parts, n, m]`` (a view where the memory layout allows)."""
        return (tensor.transpose(0, 1) if self.input_first else tensor).reshape(self.parts, self.n, self.m)

    def tensor(self, matrices: Tensor) -> Tensor:
        """``[parts, n, m]`` -> weight-shaped tensor."""
        if not self.input_first:
            return matrices.reshape(self.shape)
        return matrices.reshape(self.shape[1], self.shape[0], *self.shape[2:]).transpose(0, 1)


def layout(model: nn.Module) -> tuple[list[Kernel], list[Vector]]:
    """Sorts a model's trainable parameters into kernels and vectors.

    Convolutions flatten (in, kernel...) into the fan-in; a fused query-key-value layer is split in three; position
    embeddings and class tokens are rows x width. What a parametrization keeps of a weight is sorted like the weight.
    """
    kernels: list[Kernel] = []
    vectors: list[Vector] = []
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    owners = {name: _owner(name, modules) for name in parameters}
    weights = {owners[name]: parameter for name, parameter in parameters.items()}
    embeddings = {
        id(weight)
        for (path, attribute), weight in weights.items()
        if attribute == "weight" and isinstance(modules[path], EMBEDDINGS)
    }
    one_layer = all(name == "parametrizations" for name, _ in model.named_children())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        path, attribute = owners[name]
        module, shape, layer = modules[path], parameter.shape, path if path or one_layer else name
        conv = isinstance(module, _ConvNd) and attribute == "weight"
        if _is_vector(name, parameter, module, attribute):
            vectors.append(Vector(name, shape, layer, _parts_of_bias(path, attribute, weights)))
        elif not conv and (isinstance(module, RECURRENT) or (len(shape) > 2 and shape[0] != 1)):
            vectors.append(Vector(name, shape, layer, fallback=True))
        else:
            parts, input_first = _parts(path, attribute, parameter), conv and isinstance(module, _ConvTransposeNd)
            n = shape[1 if input_first else 0] if conv else parameter.numel() // shape[-1] // parts
            m = parameter.numel() // n // parts
            third = SEPARATE.index(attribute) if attribute in SEPARATE else None
            flags = {"input_first": input_first, "vocabulary": id(parameter) in embeddings}
            kernels.append(Kernel(name, shape, layer, parts, third, n=n, m=m, **flags))
    return kernels, vectors


def _owner(name: str, modules: Mapping[str, nn.Module]) -> tuple[str, str]:
    """Returns the path of the layer that a parameter belongs to, and the name of the layer's tensor that it makes."""
    path, _, attribute = name.rpartition(".")
    if isinstance(modules[path], ParametrizationList) and attribute.startswith("original"):
        path, _, attribute = path.rpartition(".")  # <layer>.parametrizations.weight.original
        path = path.removesuffix("parametrizations").removesuffix(".")
    # The older hooks keep ``weight_v`` or ``weight_orig`` beside a ``weight`` that is no parameter.
    made = attribute.removesuffix("_v").removesuffix("_orig")
    return path, made if made in vars(modules[path]) else attribute


def _is_vector(name: str, parameter: Tensor, module: nn.Module, attribute: str) -> bool:
    """Whether it is a bias, belongs to a norm layer, or has one axis longer than 1 and is no row of an embedding."""
    shape = parameter.shape
    if len(shape) < 2 or not parameter.numel() or isinstance(module, NORMS) or attribute.startswith("bias"):
        return True
    if isinstance(module, LAYERS) and name.rpartition(".")[2] == "weight":
        return False
    long = [axis for axis, size in enumerate(shape) if size > 1]
    row = long == [len(shape) - 1] and not isinstance(module, LAYERS)  # a class token, not a weight norm's lengths
    return len(long) < 2 and not row


def _parts(path: str, attribute: str, weight: Tensor) -> int:
    """Returns 3 for a fused query-key-value weight (timm's ``qkv``, torch's ``in_proj_weight``), else 1."""
    fused = f"{path}.{attribute}".endswith(("qkv.weight", "in_proj_weight"))
    return 3 if fused and weight.ndim == 2 and weight.shape[0] == 3 * weight.shape[1] else 1


def _parts_of_bias(path: str, attribute: str, weights: Mapping[tuple[str, str], Tensor]) -> int:
    """Returns the number of parts of the weight that a bias goes with; the weight may be frozen."""
    if attribute == "in_proj_bias" and (path, SEPARATE[0]) in weights:
        return 3
    weight = (path, attribute.removesuffix("bias") + "weight")
    return _parts(*weight, weights[weight]) if attribute.endswith("bias") and weight in weights else 1
