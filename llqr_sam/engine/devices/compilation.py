"""A network compiled for one run."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import nn

# Whether Inductor chooses kernels by timing them in deterministic runs, too, to measure what the choice by rule costs.
# What is compiled so may give other bits elsewhere.
times_kernels = ContextVar("times_kernels", default=False)


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
    if deterministic and not times_kernels.get() and "deterministic" in torch._inductor.list_options():
        options["deterministic"] = True
    return cast("nn.Module", torch.compile(model, fullgraph=True, dynamic=False, options=options or None))
