"""Which module of a network stands in the way of second derivatives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llqr_sam.methods.inference import differentiable_inference


class UnsupportedModuleError(RuntimeError):
    """A module that cannot be differentiated twice, and what to do about it."""


def require_second_derivatives(gradients: Iterable[Tensor]) -> None:
    """Refuses gradients whose graph ends in a function marked ``once_differentiable``.

    Autograd raises for such a function only where a derivative flows through its error node; a derivative in the
    parameters goes round it, and comes out wrong without a word.

    Raises:
        RuntimeError: there is one.
    """
    waiting = [g.grad_fn for g in gradients if g.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("its backward pass is marked once_differentiable.")
        following = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= following
        waiting += following


@contextlib.contextmanager
def explained(model: nn.Module, inputs: Any) -> Iterator[None]:
    """Turns autograd's complaint about a second derivative into the name of the module it comes from.

    Raises:
        UnsupportedModuleError: an error inside the context, where some module of ``model`` fails by itself on the same
            ``inputs``. Other errors pass unchanged, want of memory among them.
    """
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError too
        raise
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        name = _first_failing(model, inputs)
        if name is None:
            raise
        kind = type(model.get_submodule(name)).__name__
        raise UnsupportedModuleError(
            f"LLQR needs second derivatives, and module {name or '(the model)'} ({kind}) has none: {reason} "
            "Replace it, or its fused kernel, by plain differentiable operations."
        ) from error


def _first_failing(model: nn.Module, inputs: Any) -> str | None:
    """Name of the first childless module whose output cannot be differentiated twice."""
    failing: list[str] = []
    hooks = []
    for name, module in model.named_modules():
        if not any(module.children()):

            def probe(module: nn.Module, arguments: Any, output: Any, name: str = name) -> None:
                leaves = [*module.parameters(), *(a for a in arguments if isinstance(a, Tensor))]
                if not failing and isinstance(output, Tensor) and not _twice_differentiable(output, leaves):
                    failing.append(name)

            hooks.append(module.register_forward_hook(probe))
    try:
        with differentiable_inference(model), contextlib.suppress(RuntimeError):
            _forward(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return failing[0] if failing else None


def _forward(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _twice_differentiable(output: Tensor, leaves: list[Tensor]) -> bool:
    """Whether J' u has a derivative in u, J the Jacobian of the output in the leaves that require a gradient."""
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    if not leaves or not output.requires_grad:
        return True
    u = torch.ones_like(output, requires_grad=True)
    try:
        pulled = torch.autograd.grad(output, leaves, u, create_graph=True, allow_unused=True)
        graphs = [g for g in pulled if g is not None and g.requires_grad]
        require_second_derivatives(graphs)
        if graphs:
            torch.autograd.grad(graphs, u, [torch.ones_like(g) for g in graphs], allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    return True
