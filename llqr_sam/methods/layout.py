"""How parameters become matrices: one kernel per weight, one vector per bias or norm scale.

Notation: n is the fan-out and m the fan-in. The paper's kernel is X in R^{m x n}; PyTorch stores its transpose, so a
kernel here is W = X', ``[n, m]``, and U X = A X B' reads U W = B W A'.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


@dataclass(frozen=True)
class Kernel:
    """One weight tensor seen as ``parts`` matrices ``[n, m]``.

    Args:
        name: Parameter name.
        shape: Its shape as stored.
        parts: Matrices it holds: three for a fused query-key-value weight, else one.
        n: Rows of each, the fan-out.
        m: Columns of each, the fan-in.
        input_first: Stored as (in, out, ...), as transposed convolutions are.
        vocabulary: An embedding's, a row a word, whether or not an output layer shares it.
        layer: What it is clipped with under the diagonal structure (see ``Vector``).
    """

    name: str
    shape: torch.Size
    parts: int
    n: int
    m: int
    input_first: bool = False
    vocabulary: bool = False
    layer: str = ""

    def matrices(self, tensor: Tensor) -> Tensor:
        """Weight-shaped tensor -> ``[parts, n, m]`` (a view where the memory layout allows)."""
        if self.input_first:
            tensor = tensor.transpose(0, 1)
        return tensor.reshape(self.parts, self.n, self.m)

    def tensor(self, matrices: Tensor) -> Tensor:
        """``[parts, n, m]`` -> weight-shaped tensor."""
        if not self.input_first:
            return matrices.reshape(self.shape)
        swapped = (self.shape[1], self.shape[0], *self.shape[2:])
        return matrices.reshape(swapped).transpose(0, 1)


@dataclass(frozen=True)
class Vector:
    """One bias or norm scale, preconditioned elementwise; under the diagonal structure any tensor.

    Args:
        name: Parameter name.
        shape: Its shape.
        layer: What the diagonal structure clips as a whole: the module it belongs to, or the parameter itself where
            that is the network (a class token is no layer's).
        parts: Equal slices of its first axis that are clipped each by itself: three in a fused query-key-value layer.
    """

    name: str
    shape: torch.Size
    layer: str
    parts: int = 1


def layout(model: nn.Module) -> tuple[list[Kernel], list[Vector]]:
    """Sorts a model's trainable parameters into kernels (two axes or more) and vectors.

    Convolutions flatten (in, kernel...) into the fan-in; a fused query-key-value layer is split in three; everything
    else, position embeddings and class tokens included, is rows x width (METHODS section 2).
    """
    kernels: list[Kernel] = []
    vectors: list[Vector] = []
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    embeddings = {id(module.weight) for module in modules.values() if isinstance(module, nn.Embedding)}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner = name.rpartition(".")[0]
        layer = name if not owner and any(model.children()) else owner
        if parameter.ndim < 2:
            vectors.append(Vector(name, parameter.shape, layer, _parts_of_bias(name, parameters)))
        else:
            kernel = replace(_kernel(name, parameter, modules[owner]), layer=layer)
            kernels.append(replace(kernel, vocabulary=True) if id(parameter) in embeddings else kernel)
    return kernels, vectors


def _kernel(name: str, parameter: Tensor, module: nn.Module) -> Kernel:
    shape = parameter.shape
    attribute = name.rpartition(".")[2]
    if isinstance(module, _ConvNd) and attribute == "weight":
        input_first = isinstance(module, _ConvTransposeNd)
        n = shape[1] if input_first else shape[0]
        return Kernel(name, shape, 1, n, parameter.numel() // n, input_first)
    parts = _parts(name, parameter)
    rows = parameter.numel() // shape[-1]
    return Kernel(name, shape, parts, rows // parts, shape[-1])


def _parts(name: str, weight: Tensor) -> int:
    """Three for timm's and most vision transformers' ``qkv`` and for torch's ``in_proj_weight``, else one."""
    fused = name.endswith(("qkv.weight", "in_proj_weight"))
    return 3 if fused and weight.ndim == 2 and weight.shape[0] == 3 * weight.shape[1] else 1


def _parts_of_bias(name: str, parameters: dict[str, nn.Parameter]) -> int:
    """Those of its weight, whether or not that is trained."""
    weight = name.removesuffix("bias") + "weight"
    return _parts(weight, parameters[weight]) if name.endswith("bias") and weight in parameters else 1
