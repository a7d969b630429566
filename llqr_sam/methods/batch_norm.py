"""Batch-norm running statistics under two passes: the pass that does not count runs inside ``frozen_statistics``.

They are put back, since a layer that is switched off is another network to a compiler or a CUDA graph.
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
    """Lets batch-norm normalise by batch statistics as before, and restores its buffers on exit bit for bit.

    The backward pass belongs inside: the statistics are written to afterwards. Without a ``model``, each layer is
    frozen as it is called; name a compiled model, which hides its layers. ``memory`` holds copies for a later call.
    """
    known, kept = dict(memory), list[tuple[list[Tensor], list[Tensor]]]()  # kept: statistics, and what they were
    memory.clear()

    def keep(modules: Iterable[nn.Module]) -> None:
        norms = (module for module in modules if isinstance(module, _NormBase) and module.training)
        buffers = [module._buffers for module in norms]  # by attribute takes ten times as long
        buffers = [own for own in buffers if own.get("running_mean") is not None]
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
    hook: Any = register_module_forward_pre_hook(keep_once) if model is None else contextlib.nullcontext()
    try:
        with hook:
            yield
    finally:
        with torch.no_grad():
            for statistics, copies in kept:
                torch._foreach_copy_(statistics, copies)
