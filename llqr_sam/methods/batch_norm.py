"""Batch-norm running statistics under two passes: the pass that does not count runs inside ``frozen_statistics``.

The statistics are put back rather than the layers switched off: a switched layer is another network to a compiler or a
CUDA graph, which would have to be made twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook


@contextlib.contextmanager
def frozen_statistics(model: nn.Module | None, memory: dict[Tensor, Tensor]) -> Iterator[None]:
    """Lets batch-norm normalise by batch statistics as before, and discards on exit what it recorded.

    The running mean and variance and ``num_batches_tracked`` are restored bit for bit, also after an exception. The
    backward pass belongs inside, with its forward pass: the statistics are written to afterwards.

    Without a ``model``, each layer is frozen as it is called, whatever model it belongs to; name a compiled model,
    which hides its layers from that. ``memory`` holds the copies, which a later call with the same model reuses.
    """
    known, kept = dict(memory), list[tuple[list[Tensor], list[Tensor]]]()  # kept: statistics, and what they were
    memory.clear()

    def keep(modules: Iterable[nn.Module]) -> None:
        buffers = [module._buffers for module in modules if _records(module)]  # by attribute takes ten times as long
        for names in (("running_mean", "running_var"), ("num_batches_tracked",)):  # of one type each, for one kernel
            statistics = [statistic for own in buffers for name in names if (statistic := own[name]) is not None]
            if statistics:
                copies = [known[s] if s in known else torch.empty_like(s) for s in statistics]
                torch._foreach_copy_(copies, statistics)
                kept.append((statistics, copies))
                memory.update(zip(statistics, copies, strict=True))

    called: set[nn.Module] = set()

    def keep_once(module: nn.Module, *_: Any) -> None:
        if module not in called:
            called.add(module)
            keep([module])

    if model is not None:
        keep(model.modules())
    hook = register_module_forward_pre_hook(keep_once) if model is None else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
        with torch.no_grad():
            for statistics, copies in kept:
                torch._foreach_copy_(statistics, copies)


def _records(module: nn.Module) -> bool:
    """Whether it is a batch-norm or instance-norm with running statistics, in training mode."""
    return isinstance(module, _NormBase) and module.training and module._buffers.get("running_mean") is not None
