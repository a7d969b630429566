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


def offer_two_steps(wrapper: Any, pl_module: Any, given: Context | None) -> None:
    """Lets Lightning's wrapper of an optimizer take the two steps, and count the second as it counts ``step``.

    Args:
        wrapper: A ``LightningOptimizer`` of manual optimization.
        pl_module: The ``LightningModule``, which is quiet in between.
        given: The user's ``second_pass``, which the two steps refuse.
    """
    optimizer, between = wrapper.optimizer, contextlib.ExitStack()

    def first_step(**options: Any) -> None:
        ours, optimizer.second_pass = optimizer.second_pass, given
        try:
            optimizer.first_step(**options)
        finally:
            optimizer.second_pass = ours
        between.enter_context(quiet(pl_module))

    def second_step(**options: Any) -> None:
        between.close()
        wrapper._on_before_step()
        optimizer.second_step(**options)
        wrapper._on_after_step()

    def restore() -> None:
        between.close()
        optimizer.restore()

    wrapper.first_step, wrapper.second_step, wrapper.restore = first_step, second_step, restore


def nothing(*_: Any, **__: Any) -> None:
    """Stands for a method that is not to be called now."""
