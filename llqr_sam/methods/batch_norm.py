"""Batch-norm running statistics under two passes: exactly one of them may count.

A sharpness-aware step runs the network twice on one minibatch. The authors' code takes running statistics from the
perturbed pass; most PyTorch SAM code takes them from the first. Here the other pass is run inside
``frozen_statistics``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook


@contextlib.contextmanager
def frozen_statistics(model: nn.Module | None) -> Iterator[None]:
    """Batch-norm normalises by batch statistics as before, but records nothing while the context is open.

    Neither the running mean and variance nor ``num_batches_tracked`` move. Nesting and exceptions leave every module
    as it was found.

    Args:
        model: Network whose batch-norm layers to freeze. ``None`` freezes each layer as it is called, whatever model
            it belongs to; a compiled model hides its layers from that, so name it.
    """
    frozen: list[_BatchNorm] = []

    def freeze(module: nn.Module, *_: Any) -> None:
        # Without track_running_stats a training-mode layer still normalises by the batch and skips every update.
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.training:
            module.track_running_stats = False
            frozen.append(module)

    hook = None
    if model is None:
        hook = register_module_forward_pre_hook(freeze)
    else:
        for module in model.modules():
            freeze(module)
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
        for module in frozen:
            module.track_running_stats = True
