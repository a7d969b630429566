"""Calls of a network that leave nothing behind on its modules.

Modules keep counters, caches and activations as attributes, alone or in lists, sets and dictionaries. Tensors among
them belong to the graph of one call, or to a trace that is over, so neither the next call of a refresh nor the training
loop may find them. The same holds for objects that a module holds, such as a cache of the user's own class.
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
    """On exit puts back every attribute of every module, and the contents of containers and objects among them."""
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
    """Notes the entries of a container and of those within it, each once, with ``objects`` also those of objects."""
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
