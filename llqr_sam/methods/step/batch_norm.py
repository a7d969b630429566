"""Batch-norm running statistics under two passes: the pass that does not count runs inside ``frozen_statistics``.

They are put back, since a layer that is switched off is another network to a compiler or a CUDA graph.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook


@contextlib.contextmanager
def frozen_statistics(model: nn.Module | None, memory: dict[Tensor, Tensor]) -> Iterator[set[nn.Module]]:
    """Lets batch-norm normalise by batch statistics as before, and restores its buffers on exit bit for bit.

    The backward pass belongs inside: the statistics are written to afterwards. Without a ``model``, each layer is
    frozen as it is called; the context then gives the modules that were called, for ``require_seen``. ``memory`` holds
    copies for a later call, and is empty where no layer recorded.
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
        if torch.compiler.is_compiling():  # what is copied while a graph is made would become a part of it
            return
        compiled = getattr(module, "_orig_mod", None)  # inside, no hook is called
        new = set(compiled.modules() if isinstance(compiled, nn.Module) else [module]) - called
        called.update(new)
        keep(new)

    if model is not None:
        keep(model.modules())
    hook: Any = register_module_forward_pre_hook(keep_once) if model is None else contextlib.nullcontext()
    try:
        with hook:
            yield called
    finally:
        with torch.no_grad():
            for statistics, copies in kept:
                torch._foreach_copy_(statistics, copies)


def records(model: nn.Module) -> bool:
    """Whether a training pass of the model changes running statistics."""
    return any(_records(module) for module in model.modules())


def compilations() -> int:
    """Returns how many pieces of code this process has compiled."""
    dynamo: Any = sys.modules.get("torch._dynamo.utils")
    return sum(dynamo.counters["frames"].values()) if dynamo else 0


def require_seen(called: set[nn.Module], parameters: Iterable[Tensor]) -> None:
    """Raises ValueError where compiled code hides a batch-norm layer, in which no hook is called.

    Args:
        called: What ``frozen_statistics`` gave without a model.
        parameters: Those with a gradient.
    """
    trained = {id(p) for p in parameters}
    if trained <= {id(p) for module in called for p in module._parameters.values()}:
        return
    for module in gc.get_objects():  # takes a tenth of a second
        if _records(module) and module not in called and (module.weight is None or id(module.weight) in trained):
            raise ValueError(
                "the network is compiled, and batch-norm layers inside cannot be seen; name it: "
                "SharpnessAware(model=...)."
            )


def _records(module: Any) -> bool:
    # By type: to ask any object of the process for its class may start something.
    return issubclass(type(module), _NormBase) and module.training and module._buffers.get("running_mean") is not None
