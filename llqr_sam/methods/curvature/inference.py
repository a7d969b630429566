"""How a refresh calls a network: in inference mode, by operations with two derivatives, and leaving nothing behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from llqr_sam.methods.named import HALF


def ordinary_tensors() -> contextlib.AbstractContextManager[Any]:
    """Leaves ``torch.inference_mode``, whose tensors can take part in no gradient."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext()


@contextlib.contextmanager
def differentiable_inference(model: nn.Module) -> Iterator[None]:
    """Inference mode for every module, gradients on, and every operation in a form that has a second derivative.

    Nothing is compiled, as a compiled graph has no second derivative. Activation checkpoints store what they would
    compute again, after this context has closed, in another state; ``chunk_size`` saves that memory in a refresh.
    On exit the modules are back in their modes, and the caller's random state is as before.
    """
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    recurrent = any(isinstance(module, nn.RNNBase) for module in modes)
    cudnn = torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()  # no 2nd derivative
    try:
        with torch.no_grad():
            enter_inference(model)
        with (
            torch.enable_grad(),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.autocast(device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
            cudnn,
            torch.compiler.set_stance("force_eager"),
            _checkpoints_off(),
            PlainForms(),
        ):
            yield
    finally:
        with torch.no_grad():
            model.train()
            for module, mode in modes.items():
                if module.training != mode:
                    module.train(mode)
                module.training = mode


def enter_inference(model: nn.Module) -> None:
    """Puts every module in inference mode, by way of training mode.

    What a module caches in inference mode and drops in ``train()`` then belongs to the call that follows.
    """
    model.train()
    model.eval()
    for module in model.modules():
        module.training = False  # also where a module's own train() ignores the mode


def drop_lower_precision(model: nn.Module) -> None:
    """Removes the forward under autocast that accelerate puts on a module; ``unchanged_attributes`` brings it back."""
    for module in model.modules():
        if "_original_forward" in vars(module):
            vars(module).pop("forward", None)


def _checkpoints_off() -> contextlib.AbstractContextManager[Any]:
    """Makes ``torch.utils.checkpoint`` call its function and keep what autograd saves, in both of its forms."""
    # The hook is replaced too, for callers that have imported the generator of the other form by name.
    return mock.patch.multiple(
        torch.utils.checkpoint,
        CheckpointFunction=SimpleNamespace(apply=lambda function, preserve_rng_state, *args: function(*args)),
        _checkpoint_hook=lambda frame: contextlib.nullcontext(),
        _checkpoint_without_reentrant_generator=lambda *args, **kwargs: iter([None]),
    )


@contextlib.contextmanager
def unchanged_attributes(model: nn.Module) -> Iterator[None]:
    """Restores every attribute of every module on exit, and the contents of containers and objects among them.

    Cached tensors belong to the graph of one call, or to a trace that is over: no later call may find them.
    """
    kept: dict[int, tuple[Any, Any]] = {}
    for module in model.modules():
        _keep(vars(module), kept)
    try:
        yield
    finally:
        for container, before in kept.values():
            if _identities(container) != _identities(before):
                container.clear()
                (container.extend if isinstance(container, list) else container.update)(before)


def _keep(container: Any, kept: dict[int, tuple[Any, Any]], *, objects: bool = True) -> None:
    """Records the entries of a container and of nested ones, each once; with ``objects`` also attributes of objects."""
    if id(container) in kept:
        return
    kept[id(container)] = container, dict(container) if isinstance(container, dict) else list(container)
    for value in container.values() if isinstance(container, dict) else container:
        if isinstance(value, (dict, list, set)):
            _keep(value, kept, objects=objects)
        elif objects and not isinstance(value, (nn.Module, Tensor, type, ModuleType)):
            attributes = getattr(value, "__dict__", None)
            if isinstance(attributes, dict):  # no deeper: the objects that these hold may be the whole program
                _keep(attributes, kept, objects=False)


def _identities(container: Any) -> list[int]:
    """Which objects a list or set holds, or a dictionary as its keys and then its values."""
    return [id(x) for x in ((*container, *container.values()) if isinstance(container, dict) else container)]


class PlainForms(TorchFunctionMode):
    """Replaces operations that have one derivative only, or only one under autocast, by others that have two."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _FORMS.get(func, func)(*args, **(kwargs or {}))


class ReverseModeRules(TorchFunctionMode):
    """Gives forward mode the rules that torch's backward pass has and its forward mode lacks.

    No tangent passes ``torch.no_grad()`` or an embedding's padding row, and normalisations of half-precision inputs by
    float32 statistics have no float32 tangents, which the next matrix product would refuse.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dtypes = [x.dtype for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if func in _NORMALISATIONS and torch.float32 in dtypes and args and args[0].dtype in HALF:
            return func(args[0].float(), *args[1:], **kwargs).to(args[0].dtype)
        found = func(*args, **kwargs)
        if not torch.is_grad_enabled():
            return tree_map_only(Tensor, Tensor.detach, found)
        if func is not functional.embedding or kwargs["padding_idx"] is None:
            return found
        tokens, weight = args
        return torch.where((tokens == kwargs["padding_idx"] % len(weight)).unsqueeze(-1), found.detach(), found)


def _embedding_bag(
    input: Tensor, weight: Tensor, *, offsets: Tensor | None, per_sample_weights: Tensor | None, **options: Any
) -> Tensor:
    """``functional.embedding_bag``; where it rewrites the weight or scales its gradient, torch's own."""
    if options["max_norm"] is not None or options["scale_grad_by_freq"]:
        return functional.embedding_bag(input, weight, offsets, per_sample_weights=per_sample_weights, **options)
    words = input.flatten()
    if offsets is None:
        offsets = input.shape[1] * torch.arange(len(input), device=words.device)
    count = len(offsets) - int(options["include_last_offset"])
    bags = torch.bucketize(torch.arange(len(words), device=words.device), offsets, right=True) - 1
    if options["padding_idx"] is not None:
        bags = torch.where(words == options["padding_idx"] % len(weight), count, bags)  # one more bag, to be dropped
    rows = functional.embedding(words, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.flatten().unsqueeze(1)
    empty = rows.new_zeros(count + 1, weight.shape[1])
    if options["mode"] == "max":
        index = bags.unsqueeze(1).expand_as(rows)
        return empty.scatter_reduce(0, index, rows, "amax", include_self=False)[:count]
    total = empty.index_add(0, bags, rows)[:count]
    if options["mode"] == "sum":
        return total
    sizes = rows.new_zeros(count + 1).index_add(0, bags, rows.new_ones(len(words)))[:count]
    return total / sizes.clamp_min(1).unsqueeze(1)


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    linear, gate = torch.unflatten(input, dim, (2, -1)).unbind(dim % input.ndim)
    return linear * gate.sigmoid()


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    found = functional.relu6(input + 3) / 6
    return input.copy_(found) if inplace else found


def _scaled_dot_product_attention(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``functional.scaled_dot_product_attention``, with the casts of autocast made before it."""
    # The plain kernel returns to float32 inside, where a nested derivative would meet autocast a second time, and two
    # dtypes in one product. It would also multiply in float32 what autocast has rounded.
    device = query.device.type
    if not torch.is_autocast_enabled(device):
        return functional.scaled_dot_product_attention(query, *args, **kwargs)
    dtype = torch.get_autocast_dtype(device)
    cast = lambda t: t.to(dtype) if t.is_floating_point() else t  # noqa: E731
    query, args, kwargs = tree_map_only(Tensor, cast, (query, args, kwargs))
    cuda: Any = torch.backends.cuda  # the switch is for all devices; it has no stub
    before = cuda.fp16_bf16_reduction_math_sdp_allowed()
    try:
        cuda.allow_fp16_bf16_reduction_math_sdp(True)
        with torch.autocast(device, enabled=False):
            return functional.scaled_dot_product_attention(query, *args, **kwargs)
    finally:
        cuda.allow_fp16_bf16_reduction_math_sdp(before)


def _multi_head_attention_forward(query: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """``functional.multi_head_attention_forward``, which calls the kernel above where nothing can replace it."""
    # Under autocast it computes its weights by plain products, and they are then dropped.
    wanted = kwargs.get("need_weights", True)
    kwargs["need_weights"] = wanted or torch.is_autocast_enabled(query.device.type)
    outputs, weights = functional.multi_head_attention_forward(query, *args, **kwargs)
    return outputs, weights if wanted else None


_NORMALISATIONS = frozenset(
    {functional.batch_norm, functional.layer_norm, functional.group_norm, functional.instance_norm, functional.rms_norm}
)

_FORMS: Mapping[Any, Callable[..., Any]] = {
    functional.embedding_bag: _embedding_bag,
    functional.glu: _glu,
    functional.hardsigmoid: _hardsigmoid,
    # Graphs of make_fx and torch.export call the kernels by themselves.
    torch._C._nn.hardsigmoid: _hardsigmoid,
    torch._C._nn.hardsigmoid_: partial(_hardsigmoid, inplace=True),
    torch.ops.aten.hardsigmoid.default: _hardsigmoid,
    torch.ops.aten.hardsigmoid_.default: partial(_hardsigmoid, inplace=True),
    functional.multi_head_attention_forward: _multi_head_attention_forward,
    functional.scaled_dot_product_attention: _scaled_dot_product_attention,
}
