"""A network compiled for one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import nn

_times_kernels = ContextVar("times_kernels", default=False)


@contextmanager
def inductor_times_kernels() -> Iterator[None]:
    """Let Inductor choose kernels by timing them within the block, in deterministic runs too.

    This measures the cost of the choice by rule. What is compiled here may give other bits elsewhere.
    """
    token = _times_kernels.set(True)
    try:
        yield
    finally:
        _times_kernels.reset(token)


def compiled(model: nn.Module, *, deterministic: bool) -> nn.Module:
    """``model`` with its forward pass compiled, at the first call in training and the first in inference mode.

    Shapes are static: a smaller last test minibatch is compiled once more, and nothing after the first epoch. A network
    that is not one graph, or that would be recompiled repeatedly, raises instead of running uncompiled.

    Args:
        model: The network, not changed; what is returned shares its weights and its mode.
        deterministic: Choose kernels by rule instead of by timing, so that another process chooses the same, if this
            version of PyTorch can.
    """
    torch.compiler.reset()  # the graphs of earlier runs in this process would count towards the limit
    options: dict[str, Any] = {}
    if deterministic and not _times_kernels.get() and "deterministic" in torch._inductor.list_options():
        options["deterministic"] = True
    return cast("nn.Module", torch.compile(model, fullgraph=True, dynamic=False, options=options or None))
