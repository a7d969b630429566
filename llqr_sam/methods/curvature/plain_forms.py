"""What stands in for operations of torch while a network is differentiated for a refresh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from llqr_sam.methods.named import HALF


class PlainForms(TorchFunctionMode):
    """Replaces operations that have one derivative only, or only one under autocast, by others that have two."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _FORMS.get(func, func)(*args, **(kwargs or {}))


class ReverseModeRules(TorchFunctionMode):
    """Gives forward mode the rules that torch's backward pass has and its forward mode lacks.

    No tangent passes ``torch.no_grad()`` or an embedding's padding row. Normalisations of half-precision inputs by
    float32 statistics return half precision; torch would return float32 tangents, which the next matrix product
    refuses.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _NORMALISATIONS and args and args[0].dtype in HALF and _any_float32((*args, *kwargs.values())):
            return func(args[0].float(), *args[1:], **kwargs).to(args[0].dtype)
        found = func(*args, **kwargs)
        if not torch.is_grad_enabled():
            return tree_map_only(Tensor, Tensor.detach, found)
        padding = kwargs["padding_idx"] if func is functional.embedding else None
        if padding is None:
            return found
        tokens, weight = args
        return torch.where((tokens == padding % len(weight)).unsqueeze(-1), found.detach(), found)


def _any_float32(arguments: tuple[Any, ...]) -> bool:
    return any(isinstance(x, Tensor) and x.dtype == torch.float32 for x in arguments)


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    *,
    offsets: Tensor | None,
    mode: str,
    per_sample_weights: Tensor | None,
    include_last_offset: bool,
    padding_idx: int | None,
    **others: Any,
) -> Tensor:
    """``functional.embedding_bag``; where it rewrites the weight or scales its gradient, torch's own."""
    if others["max_norm"] is not None or others["scale_grad_by_freq"]:
        others |= {"mode": mode, "include_last_offset": include_last_offset, "padding_idx": padding_idx}
        return functional.embedding_bag(input, weight, offsets, per_sample_weights=per_sample_weights, **others)
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


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    found = functional.relu6(input + 3) / 6
    return input.copy_(found) if inplace else found


def _scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **more: Any
) -> Tensor:
    """``functional.scaled_dot_product_attention``, with the casts of autocast made before it.

    The plain kernel returns to float32 inside, where a nested derivative would meet autocast a second time, and two
    dtypes in one product. It would also multiply in float32 what autocast has rounded.
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


def _multi_head_attention_forward(query: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """``functional.multi_head_attention_forward``, which calls the kernel above where nothing can replace it.

    Under autocast it computes its weights by plain products, and they are then dropped.
    """
    if kwargs.get("need_weights", True) or not torch.is_autocast_enabled(query.device.type):
        return functional.multi_head_attention_forward(query, *args, **kwargs)
    outputs, _ = functional.multi_head_attention_forward(query, *args, **{**kwargs, "need_weights": True})
    return outputs, None


_NORMALISATIONS = frozenset(
    {functional.batch_norm, functional.layer_norm, functional.group_norm, functional.instance_norm, functional.rms_norm}
)

_FORMS: Mapping[Any, Callable[..., Any]] = {
    functional.embedding_bag: _embedding_bag,
    functional.hardsigmoid: _hardsigmoid,
    functional.multi_head_attention_forward: _multi_head_attention_forward,
    functional.scaled_dot_product_attention: _scaled_dot_product_attention,
}
