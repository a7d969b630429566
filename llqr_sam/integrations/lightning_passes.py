"""The two passes of a step under Lightning: the second leaves no trace in logs and metrics, and is counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from llqr_sam.methods.step.passes import Context


@contextlib.contextmanager
def quiet(pl_module: Any, outer: Context = contextlib.nullcontext) -> Iterator[None]:
    """Drops what a module logs inside the context, and puts its torchmetrics back on exit.

    Args:
        pl_module: The ``LightningModule``; its metrics are all ``Metric`` and ``MetricCollection`` submodules.
        outer: Another context to be in.
    """
    metrics = [m for m in pl_module.modules() if isinstance(m, (Metric, MetricCollection))]
    before = [dict(vars(metric)) for metric in metrics]
    for metric in metrics:
        if isinstance(metric, Metric):  # it updates copies: what it had may be shared within a collection
            for name, state in metric.metric_state.items():
                setattr(metric, name, state.clone() if isinstance(state, Tensor) else list(state))
    pl_module.log = pl_module.log_dict = nothing
    try:
        with outer():
            yield
    finally:
        del pl_module.log, pl_module.log_dict
        for metric, kept in zip(metrics, before, strict=True):
            vars(metric).clear()
            vars(metric).update(kept)


def count_two_steps(wrapper: Any) -> None:
    """Lets Lightning's wrapper of an optimizer count a step in two calls as it counts ``step``.

    Args:
        wrapper: A ``LightningOptimizer`` of manual optimization.
    """
    optimizer = wrapper.optimizer

    def second_step() -> None:
        wrapper._on_before_step()
        optimizer.second_step()
        wrapper._on_after_step()

    wrapper.second_step = second_step


def nothing(*_: Any, **__: Any) -> None:
    """Stands for a method that is not to be called now."""
