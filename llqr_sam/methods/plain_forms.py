"""What stands in for operations of torch while a network is differentiated for a refresh.

``PlainForms`` is for operations whose kernels have one derivative only. ``ReverseModeRules`` is for what torch's
backward pass knows and its forward mode does not; it is wanted where a network is traced in forward mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only


class PlainForms(TorchFunctionMode):
    """Replaces an operation that has one derivative only by others that have as many as one likes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _FORMS.get(func, func)(*args, **(kwargs or {}))


class ReverseModeRules(TorchFunctionMode):
    """Holds tangents still where the backward pass does: in ``torch.no_grad()``, and at an embedding's padding row."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not torch.is_grad_enabled():
            return tree_map_only(Tensor, Tensor.detach, found)
        padding = kwargs["padding_idx"] if func is functional.embedding else None
        if padding is None:
            return found
        tokens, weight = args
        return torch.where((tokens == padding % len(weight)).unsqueeze(-1), found.detach(), found)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """``torch.nn.functional.embedding_bag`` out of operations with second derivatives.

    Args:
        input: Word indices, ``[B, L]``, or ``[T]`` with ``offsets`` ``[B]``.
        weight: A row a word, ``[V, D]``.
        offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset,
            padding_idx: As in torch. The forms that rewrite the weight or its gradient are torch's own.

    Returns:
        One row a bag, ``[B, D]``.
    """
    if max_norm is not None or scale_grad_by_freq:
        return functional.embedding_bag(
            input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights,
            include_last_offset, padding_idx,
        )  # fmt: skip
    words = input.flatten()
    position = torch.arange(len(words), device=words.device)
    if offsets is None:
        count, bags = len(input), position // input.shape[1]
    else:
        count = len(offsets) - int(include_last_offset)
        bags = torch.bucketize(position, offsets, right=True) - 1
    if padding_idx is not None:
        bags = torch.where(words == padding_idx % len(weight), count, bags)  # a bag of its own, which is dropped
    rows = functional.embedding(words, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.flatten().unsqueeze(1)
    empty = rows.new_zeros(count + 1, weight.shape[1])
    if mode == "max":
        index = bags.unsqueeze(1).expand_as(rows)
        return empty.scatter_reduce(0, index, rows, "amax", include_self=False)[:count]
    total = empty.index_add(0, bags, rows)[:count]
    if mode == "sum":
        return total
    sizes = rows.new_zeros(count + 1).index_add(0, bags, rows.new_ones(len(words)))[:count]
    return total / sizes.clamp_min(1).unsqueeze(1)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """``torch.nn.functional.hardsigmoid`` out of operations with second derivatives.

    Args:
        input: Any tensor.
        inplace: Whether the result is written to ``input``.

    Returns:
        ``clamp(input + 3, 0, 6) / 6``.
    """
    found = functional.relu6(input + 3) / 6
    return input.copy_(found) if inplace else found


_FORMS: Mapping[Any, Callable[..., Any]] = {
    functional.embedding_bag: embedding_bag,
    functional.hardsigmoid: hardsigmoid,
}
