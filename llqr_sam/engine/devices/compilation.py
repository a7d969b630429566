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
    """Within the block Inductor may choose kernels by timing them in deterministic runs, too.

    It is for measuring what the choice by rule costs: what is compiled here need not give the same bits elsewhere.
    """
    token = _times_kernels.set(True)
    try:
        yield
    finally:
        _times_kernels.reset(token)


def compiled(model: nn.Module, *, deterministic: bool) -> nn.Module:
    """``model``'s forward pass, compiled at its first call in training and at its first in inference mode.

    Shapes are fixed: a smaller last test minibatch is compiled once more, and nothing after the first epoch. A network
    that is not one graph, or that would be compiled again and again, raises instead of running uncompiled.

    Args:
        model: The network; it shares its weights and its mode with what is returned, and is itself left as it was.
        deterministic: Choose kernels by rule, not by timing them, so that another process chooses the same; where
            this version of PyTorch can.
    """
    torch.compiler.reset()  # the graphs of earlier runs in this process would count towards the limit
    options: dict[str, Any] = {}
    if deterministic and not _times_kernels.get() and "deterministic" in torch._inductor.list_options():
        options["deterministic"] = True
    return cast("nn.Module", torch.compile(model, fullgraph=True, dynamic=False, options=options or None))
