"""Whether a network has second derivatives, and which of its modules prevents them.

With z = f(x) and J = dz/dx, a second derivative flows through J' u, which is linear in u. Its own derivative in u must
be J: a backward pass that works outside autograd has none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llqr_sam.methods.curvature.inference import differentiable_inference
from llqr_sam.methods.curvature.point import WHOLE, Point, UnsupportedModuleError, first_line, tensors, vjp


def require_adjoint(values: Sequence[Tensor], leaves: Sequence[Tensor], eps: float = 0.0) -> None:
    """Raises RuntimeError where J' u (``values`` are z, ``leaves`` x) does not have J for its derivative in u.

    ``eps`` is the relative spacing of the numbers behind z, where it is coarser than its dtype's.
    """
    values = [z for z in values if z.requires_grad]  # compares u' (J v) with v' (J' u) at v = J' u
    leaves = [x for x in leaves if x.requires_grad]
    if not values or not leaves:
        return
    generator = torch.Generator().manual_seed(0)  # random, as J' u of a softmax is zero at u = 1
    us = [torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z.device).requires_grad_() for z in values]
    with torch.enable_grad():
        pulled = vjp(values, leaves, us, create_graph=True)
    pushed = vjp(pulled, us, [g.detach() for g in pulled], retain_graph=True)
    zero = torch.zeros(())
    backward = sum((g.detach().abs().square().sum() for g in pulled), zero)
    forward = sum(((u.detach().conj() * z).real.sum() for u, z in zip(us, pushed, strict=True)), zero)
    size = sum((u.detach().abs().square().sum() for u in us), zero).sqrt() * backward.sqrt()
    if not agreeing(forward, backward, 10 * torch.finfo(us[0].dtype).eps * size, eps):
        raise RuntimeError("its backward pass is not the transpose of one Jacobian, or works outside autograd.")


def agreeing(forward: Tensor, backward: Tensor, rounding: Tensor, eps: float) -> bool:
    """Whether u' (J v) and v' (J' u) are equal up to rounding, as they are for one J; true where not finite."""
    tolerance = max(1e-6 if forward.dtype == torch.float64 else 1e-2, 2 * eps)
    return not bool((forward - backward).abs() > tolerance * (forward.abs() + backward.abs()) + rounding)


@contextlib.contextmanager
def explained(point: Point) -> Iterator[None]:
    """Context for derivatives at a point, in its precision.

    Where a module or the loss fails by itself, an error becomes an UnsupportedModuleError that names it.
    """
    try:
        with point.precision.products(point.device):
            yield
    except torch.OutOfMemoryError:  # a RuntimeError too
        raise
    except RuntimeError as error:
        culprit, remedy = _first_failing(replace(point, precision=WHOLE))
        if not culprit:
            raise
        reason = first_line(error).rstrip(".")
        raise UnsupportedModuleError(
            f"LLQR needs second derivatives, and {culprit} has none: {reason}. {remedy}"
        ) from error


def _first_failing(point: Point) -> tuple[str, str]:
    """What fails by itself, and the remedy: the first module, innermost first, else the loss, else two empty texts."""
    model, failing = point.model, list[str]()

    def probe(name: str, module: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
        if not failing and _fails(output, [*module.parameters(), *tensors((arguments, keywords))]):
            failing.append(name)

    found: Tensor | None = None
    with contextlib.ExitStack() as hooks, differentiable_inference(model), contextlib.suppress(RuntimeError):
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):  # scripted modules take no hooks
                hooks.enter_context(module.register_forward_hook(partial(probe, name), with_kwargs=True))
        found = point.outputs()
    if failing:
        module = model.get_submodule(failing[0])
        where = ", in its own forward," if next(module.children(), None) is not None else ""
        return (
            f"module {failing[0] or '(the model)'} ({type(module).__name__}){where}",
            "Replace it, or its fused kernel, by plain differentiable operations.",
        )
    if point.loss_fn is not None and found is not None:
        z = found.detach().requires_grad_()
        with contextlib.suppress(RuntimeError), torch.enable_grad():
            if _fails(point.loss_of(z), [z]):
                remedy = 'Write it in plain differentiable operations, or choose divergence="ngd", which needs none.'
                return "the loss", remedy
    return "", ""


def _fails(output: Any, leaves: list[Tensor]) -> bool:
    """Whether the tensors of an output cannot be differentiated twice in these leaves."""
    try:
        require_adjoint(list(tensors(output)), leaves)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return True
    return False
