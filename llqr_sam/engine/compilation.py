"""A network compiled for one run."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn


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
    if deterministic and "deterministic" in torch._inductor.list_options():
        options["deterministic"] = True
    return cast("nn.Module", torch.compile(model, fullgraph=True, dynamic=False, options=options or None))
