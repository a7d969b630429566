"""Calls of a network that leave nothing behind on its modules.

Modules keep counters, caches and activations as attributes, alone or in lists, sets and dictionaries. The next call of
a refresh must not find tensors of the one before: they belong to its graph, or to a trace that is over. Nor should the
training loop find them. Objects that are no modules, such as a cache of the user's own class, are treated alike where a
module holds them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import Tensor, nn

Container = dict[Any, Any] | list[Any] | set[Any]


@contextlib.contextmanager
def unchanged_attributes(model: nn.Module) -> Iterator[None]:
    """Puts back every attribute of every module as it was, and what the containers and objects among them hold.

    Args:
        model: The network.
    """
    kept: dict[int, tuple[Container, list[Any]]] = {}
    for module in model.modules():
        _keep(vars(module), kept)
    try:
        yield
    finally:
        for container, entries in kept.values():
            _restore(container, entries)


def _keep(container: Container, kept: dict[int, tuple[Container, list[Any]]], *, objects: bool = True) -> None:
    """Notes the entries of a container and of those within it, each once, with ``objects`` the objects' too."""
    if id(container) in kept:
        return
    kept[id(container)] = container, list(container.items() if isinstance(container, dict) else container)
    for value in container.values() if isinstance(container, dict) else container:
        if isinstance(value, (dict, list, set)):
            _keep(value, kept, objects=objects)
        elif objects and not isinstance(value, (nn.Module, Tensor, type, ModuleType)):
            attributes = getattr(value, "__dict__", None)
            if isinstance(attributes, dict):  # the objects that these hold in turn may be the whole program
                _keep(attributes, kept, objects=False)


def _restore(container: Container, entries: list[Any]) -> None:
    if isinstance(container, dict):
        if len(container) != len(entries) or any(container.get(key, _ABSENT) is not value for key, value in entries):
            container.clear()
            container.update(entries)
    elif isinstance(container, list):
        if len(container) != len(entries) or any(a is not b for a, b in zip(container, entries, strict=True)):
            container[:] = entries
    elif container != set(entries):
        container.clear()
        container.update(entries)


_ABSENT = object()
