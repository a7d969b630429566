"""PyTorch Lightning: ``training_step`` runs twice a step, at theta and at theta + eps, and the trainer sees one.

    Trainer(callbacks=[SharpnessAwareCallback(loss_fn)])

Under manual optimization the optimizers have ``first_step`` and ``second_step``, and accumulation goes between.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from llqr_sam.integrations.learned import learned_metrics
from llqr_sam.integrations.lightning_passes import count_two_steps, nothing, quiet
from llqr_sam.methods.curvature.point import LossFunction
from llqr_sam.methods.llqr import LLQR
from llqr_sam.methods.sharpness_aware import SharpnessAware


class SharpnessAwareCallback(pl.Callback):  # type: ignore[misc]  # Lightning is not followed
    """Runs ``SharpnessAware`` and ``LLQR`` under a Lightning trainer.

    Each ``LLQR`` of the trainer's optimizers is refreshed when due, on the batch about to be trained on. It logs
    ``llqr/objective`` (J after the refresh) and ``llqr/relative_change`` (|U g - g| / |g|); a second one is ``llqr_1``.
    ``self.log``, torchmetrics and a batch's ``outputs["loss"]`` are those of the first pass. Clipping is of the final
    gradient, which the base optimizer sees. Checkpoints hold U among the optimizer states.

    Args:
        loss_fn: ``loss_fn(outputs, targets)``, the mean loss, for the refresh.
        split: Maps a batch to the network's inputs and the targets. Default: the batch is that pair.

    Raises:
        MisconfigurationException: when ``fit`` starts, if no optimizer of the trainer is a ``SharpnessAware``.
        ValueError: at the first batch, if it is not a pair and there is no ``split``.
    """

    def __init__(self, loss_fn: LossFunction, split: Callable[[Any], tuple[Any, Any]] | None = None) -> None:
        self.loss_fn, self.split = loss_fn, split or _pair
        self._owners: dict[LLQR, SharpnessAware] = {}
        self._asked: dict[LLQR, int] = {}  # at which optimizer step a metric was last asked to refresh
        self._loss: Tensor | None = None
        self._undo = contextlib.ExitStack()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        optimizers = [optimizer for optimizer in trainer.optimizers if isinstance(optimizer, SharpnessAware)]
        if not optimizers:
            names = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers)
            message = f"configure_optimizers returned {names}; SharpnessAwareCallback needs a SharpnessAware."
            raise MisconfigurationException(message)
        self._asked = {}
        self._owners = {metric: optimizer for optimizer in optimizers for metric in learned_metrics(optimizer)}
        if pl_module.automatic_optimization:
            self._clip_final_gradient(optimizers[0], trainer, pl_module)
        wrappers = pl_module.optimizers()
        for wrapper in wrappers if isinstance(wrappers, list) else [wrappers]:
            if isinstance(wrapper.optimizer, SharpnessAware):
                self._quiet_second_pass(wrapper, pl_module)

    def _quiet_second_pass(self, wrapper: Any, pl_module: Any) -> None:
        optimizer = wrapper.optimizer
        given = optimizer.second_pass
        optimizer.second_pass = functools.partial(quiet, pl_module, given or contextlib.nullcontext)
        count_two_steps(wrapper)
        self._undo.callback(setattr, optimizer, "second_pass", given)
        self._undo.callback(optimizer.restore)  # after an error between the two steps

    def _clip_final_gradient(self, optimizer: SharpnessAware, trainer: Any, pl_module: Any) -> None:
        """Lightning clips inside the closure, so each pass; the base's hook calls its method after them instead."""
        clip = pl_module.configure_gradient_clipping

        def clip_final(*_: Any) -> None:
            clip(optimizer.base, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)

        pl_module.configure_gradient_clipping = nothing
        self._undo.callback(delattr, pl_module, "configure_gradient_clipping")
        self._undo.callback(optimizer.base.register_step_pre_hook(clip_final).remove)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for number, (metric, optimizer) in enumerate(self._owners.items()):
            if self._asked.get(metric) == optimizer.steps:
                continue  # a further micro-batch of the same step
            self._asked[metric] = optimizer.steps
            inputs, targets = self.split(batch)
            if report := metric.refresh_if_due(inputs, targets, self.loss_fn):
                name = f"llqr_{number}" if number else "llqr"
                change = report.relative_change
                values = {f"{name}/objective": report.objective_after, f"{name}/relative_change": change}
                for logger in trainer.loggers:
                    logger.log_metrics(values, step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        if pl_module.automatic_optimization and not trainer.optimizers[0].perturbed:
            self._loss = loss.detach().clone()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.automatic_optimization and outputs:
            outputs["loss"] = self._loss

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._undo.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._undo.close()


def _pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        kind = type(batch).__name__
        raise ValueError(
            f"the batch is a {kind}, not a pair; give SharpnessAwareCallback split=, batch -> (inputs, targets)."
        )
    inputs, targets = batch
    return inputs, targets
