"""Nested minibatches: tensors in tuples, lists and mappings, and other things beside them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor


def tensors(tree: Any) -> Iterator[Tensor]:
    """Yields every tensor in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list, Mapping)):
        for branch in tree.values() if isinstance(tree, Mapping) else tree:
            yield from tensors(branch)


def mapped(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The same tree with ``function(tensor)`` in place of each tensor; everything else as it is."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        changed = {key: mapped(function, branch) for key, branch in tree.items()}
        if not isinstance(tree, MutableMapping):
            return changed
        same_kind = copy.copy(tree)  # its readers may rely on the class of the mapping
        same_kind.update(changed)
        return same_kind
    if isinstance(tree, (tuple, list)):
        branches = [mapped(function, branch) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    return tree
