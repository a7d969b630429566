"""What stands in for operations of torch while a network is differentiated for a refresh.

``PlainForms`` is for operations whose kernels have one derivative only, or whose autocast has one. ``ReverseModeRules``
is for what torch's backward pass knows and its forward mode does not; it is wanted where a network is traced in forward
mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from llqr_sam.methods.named import HALF


class PlainForms(TorchFunctionMode):
    """Replaces an operation that has one derivative only by others that have as many as one likes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _FORMS.get(func, func)(*args, **(kwargs or {}))


class ReverseModeRules(TorchFunctionMode):
    """Holds tangents still where the backward pass does: in ``torch.no_grad()``, and at an embedding's padding row.

    Normalisations of half-precision inputs by float32 statistics compute in float32 within their kernels, but return
    tangents in float32, which no matrix product takes beside half precision. Here they are cast around the kernel.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _NORMALISATIONS and _mixed(args, kwargs or {}):
            return func(args[0].float(), *args[1:], **(kwargs or {})).to(args[0].dtype)
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


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **more: Any
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention``, with the casts of autocast made before it.

    The plain kernel returns to float32 inside, where a nested derivative would meet autocast a second time, and two
    dtypes in one product. It also would multiply in float32 what autocast has rounded; here it does not.

    Args:
        query, key, value: ``[..., T, D]``.
        attn_mask: Boolean, or added to the scores.
        rest, more: As in torch.
    """
    device = query.device.type
    if not torch.is_autocast_enabled(device):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask, *rest, **more)
    dtype = torch.get_autocast_dtype(device)
    query, key, value = (t.to(dtype) for t in (query, key, value))
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.to(dtype)
    cuda: Any = torch.backends.cuda  # the switch is for all devices; it has no stub
    before = cuda.fp16_bf16_reduction_math_sdp_allowed()
    try:
        cuda.allow_fp16_bf16_reduction_math_sdp(True)
        with torch.autocast(device, enabled=False):
            return functional.scaled_dot_product_attention(query, key, value, attn_mask, *rest, **more)
    finally:
        cuda.allow_fp16_bf16_reduction_math_sdp(before)


def multi_head_attention_forward(query: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """``torch.nn.functional.multi_head_attention_forward``, which calls the above where nobody can replace it.

    Under autocast it takes its other way here, plain products and their weights, which are then dropped.

    Args:
        query, args, kwargs: As in torch.
    """
    if kwargs.get("need_weights", True) or not torch.is_autocast_enabled(query.device.type):
        return functional.multi_head_attention_forward(query, *args, **kwargs)
    outputs, _ = functional.multi_head_attention_forward(query, *args, **{**kwargs, "need_weights": True})
    return outputs, None


def _mixed(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a half-precision input, the first of the arguments by position, meets float32 tensors."""
    others = (*args[1:], *kwargs.values())
    return any(x.dtype in HALF for x in args[:1]) and any(
        isinstance(x, Tensor) and x.dtype == torch.float32 for x in others
    )


_NORMALISATIONS = frozenset(
    {functional.batch_norm, functional.layer_norm, functional.group_norm, functional.instance_norm, functional.rms_norm}
)

_FORMS: Mapping[Any, Callable[..., Any]] = {
    functional.embedding_bag: embedding_bag,
    functional.hardsigmoid: hardsigmoid,
    functional.multi_head_attention_forward: multi_head_attention_forward,
    functional.scaled_dot_product_attention: scaled_dot_product_attention,
}
