"""The state in which a refresh calls the network, and calls that leave nothing behind on its modules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from llqr_sam.methods.curvature.plain_forms import PlainForms

Container = dict[Any, Any] | list[Any] | set[Any]


def ordinary_tensors() -> contextlib.AbstractContextManager[Any]:
    """Leaves ``torch.inference_mode``, whose tensors can take part in no gradient."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext()


@contextlib.contextmanager
def differentiable_inference(model: nn.Module) -> Iterator[None]:
    """Inference mode for every module, gradients on, and every operation in a form that has a second derivative.

    Autocast is off, attention uses its plain kernel, and nothing is compiled, since a compiled graph has no second
    derivative. Activation checkpoints store what they would compute again, since they would do so after this context
    has closed, in another state; ``chunk_size`` is the way to save that memory in a refresh.

    On exit the modules are back in their modes, without what they cached in inference mode. Random numbers that the
    network or the loss draws do not advance the caller's generator.
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
        for module, mode in modes.items():
            module.training = mode


def enter_inference(model: nn.Module) -> None:
    """Puts every module in inference mode, by way of training mode.

    A module may compute or cache tensors in inference mode and drop them in ``train()``. Those it then has, wherever it
    keeps them, belong to the parameters and the graph of the call that follows.
    """
    model.train()
    model.eval()
    for module in model.modules():
        module.training = False  # also where a module's own train() ignores the mode


@contextlib.contextmanager
def _checkpoints_off() -> Iterator[None]:
    """Makes ``torch.utils.checkpoint`` call its function and keep what autograd saves, in both of its forms.

    The hook is replaced too, for callers that have imported the generator of the other form by name.
    """
    replaced = {
        "_checkpoint_without_reentrant_generator": lambda *args, **kwargs: (None for _ in range(1)),
        "_checkpoint_hook": lambda frame: contextlib.nullcontext(),
        "CheckpointFunction": _PlainCall,
    }
    originals = {name: getattr(torch.utils.checkpoint, name) for name in replaced}
    try:
        for name, replacement in replaced.items():
            setattr(torch.utils.checkpoint, name, replacement)
        yield
    finally:
        for name, original in originals.items():
            setattr(torch.utils.checkpoint, name, original)


class _PlainCall:
    """Stands in for ``torch.utils.checkpoint.CheckpointFunction``, the reentrant form."""

    @staticmethod
    def apply(function: Any, preserve_rng_state: bool, *arguments: Any) -> Any:
        """Calls the function."""
        return function(*arguments)


@contextlib.contextmanager
def unchanged_attributes(model: nn.Module) -> Iterator[None]:
    """Restores every attribute of every module on exit, and the contents of containers and objects among them.

    Modules keep counters, caches and activations, alone, in containers or in objects of the user's own. Tensors among
    them belong to the graph of one call, or to a trace that is over, so neither the next call of a refresh nor the
    training loop may find them.
    """
    kept: dict[int, tuple[Container, list[Any]]] = {}
    for module in model.modules():
        _keep(vars(module), kept)
    try:
        yield
    finally:
        for container, entries in kept.values():
            if not _same(container, entries):
                container.clear()
                container.extend(entries) if isinstance(container, list) else container.update(entries)


def _keep(container: Container, kept: dict[int, tuple[Container, list[Any]]], *, objects: bool = True) -> None:
    """Records the entries of a container and of nested ones, each once; with ``objects`` also attributes of objects."""
    if id(container) in kept:
        return
    kept[id(container)] = container, _entries(container)
    for value in container.values() if isinstance(container, dict) else container:
        if isinstance(value, (dict, list, set)):
            _keep(value, kept, objects=objects)
        elif objects and not isinstance(value, (nn.Module, Tensor, type, ModuleType)):
            attributes = getattr(value, "__dict__", None)
            if isinstance(attributes, dict):  # no deeper: the objects that these hold may be the whole program
                _keep(attributes, kept, objects=False)


def _entries(container: Container) -> list[Any]:
    return list(container.items() if isinstance(container, dict) else container)


def _same(container: Container, entries: list[Any]) -> bool:
    """Whether a container holds the same objects as before."""
    if isinstance(container, set):
        return container == set(entries)
    if len(container) != len(entries):
        return False
    if isinstance(container, dict):
        return all(container.get(key, _ABSENT) is value for key, value in entries)
    return all(a is b for a, b in zip(container, entries, strict=True))


_ABSENT = object()
