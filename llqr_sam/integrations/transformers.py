"""The sharpness-aware step in Hugging Face's ``Trainer``.

``Trainer`` calls ``training_step`` for each micro-batch of an accumulation window, then clips and steps. Here the last
``training_step`` takes the whole step, and what ``Trainer`` does after it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from accelerate.state import GradientState
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Trainer, TrainerCallback

from llqr_sam.integrations.learned import learned_metrics
from llqr_sam.integrations.logits import Logits as Logits
from llqr_sam.integrations.logits import labels_of, token_loss
from llqr_sam.integrations.windows import clip, sharpness_aware_of, take_step
from llqr_sam.methods.llqr import LLQR
from llqr_sam.methods.sharpness_aware import SharpnessAware


class SharpnessAwareTrainer(Trainer):  # type: ignore[misc]
    """A ``Trainer`` whose optimizer steps are sharpness-aware.

        def llqr_sam(base, model):
            metric = LLQR(Logits(model), structure="kfac")
            return SharpnessAware(base, rho=0.05, probe=metric, transport=metric)

        SharpnessAwareTrainer(model, args, train_dataset=data, sharpness_aware=llqr_sam)
        SharpnessAwareTrainer(model, args, train_dataset=data, sharpness_aware=partial(SharpnessAware, rho=0.05))

    ``max_grad_norm`` clips the final gradient, and its norm is logged. For another kind of trainer inherit from both:
    ``class Mine(SharpnessAwareTrainer, Seq2SeqTrainer)``.

    Args:
        args, kwargs: As for ``Trainer``; ``optimizers=(optimizer, None)`` may bring a ``SharpnessAware``.
        sharpness_aware: ``sharpness_aware(base, model=model)`` returns a ``SharpnessAware`` around the optimizer that
            the ``TrainingArguments`` describe. It is called when training begins, with the model on its device.

    Raises:
        ValueError: there is neither an optimizer nor ``sharpness_aware``, or both; or, when training begins, the
            distributed strategy shards or steps the parameters itself.
        TypeError: when training begins, the optimizer is not a ``SharpnessAware``.
    """

    optimizer: Any  # Trainer's: the optimizer, and in training accelerate's wrapper around it

    def __init__(self, *args: Any, sharpness_aware: Callable[..., SharpnessAware] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if (self.optimizer is None) == (sharpness_aware is None):
            raise ValueError("give either sharpness_aware=, or a SharpnessAware as optimizers=(optimizer, None).")
        self.sharpness_aware = sharpness_aware
        self._window: list[Callable[[], Tensor]] = []
        self._clipping: RemovableHandle | None = None
        self._norm: Tensor | None = None
        self.add_callback(_SkipTheStep)

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        if self.optimizer is None and self.sharpness_aware is not None:
            plain = super().create_optimizer(model)
            self.optimizer = self.sharpness_aware(plain, model=self.model if model is None else model)
        if self._clipping is not None:  # training begins again, perhaps with the same optimizer
            self._clipping.remove()
        base = sharpness_aware_of(self.accelerator, self.optimizer).base
        self._clipping = base.register_step_pre_hook(self._clip)
        self._window.clear()
        return self.optimizer

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Keeps a micro-batch; the last one of a window takes the step.

        Returns: At the end of a window its loss at theta, detached; before that zero.
        """
        if not self._window:
            self._first = inputs
        self._window.append(partial(super().training_step, model, inputs, num_items_in_batch))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        window, self._window, self._norm = self._window, [], None
        inner = sharpness_aware_of(self.accelerator, self.optimizer)
        for metric in learned_metrics(inner):
            self.refresh(metric, self._prepare_inputs(self._first))
        return take_step(self.accelerator, model, self.optimizer, window)

    def refresh(self, metric: LLQR, inputs: dict[str, Any]) -> None:
        """Calls ``metric.refresh_if_due`` before a step; override it where the loss is no cross-entropy of ``labels``.

        Args:
            metric: Probe or transport of the optimizer.
            inputs: First micro-batch of the step.

        Raises:
            ValueError: the model's loss is not the cross-entropy of integer labels.
        """
        labels = labels_of(self.model, inputs) if metric.refresh_due(metric.steps) else None
        metric.refresh_if_due(dict(inputs), labels, partial(token_loss, smoothing=self.args.label_smoothing_factor))

    def _clip(self, *_: Any) -> None:
        self._norm = clip(self.model, self.args.max_grad_norm or None)

    def _get_grad_norm(self, *_: Any, **__: Any) -> Tensor | None:
        return self._norm  # what was clipped; ``Trainer`` logs it

    _clip_grad_norm = _get_grad_norm


class _SkipTheStep(TrainerCallback):  # type: ignore[misc]
    """Makes ``Trainer``'s own step do nothing, as accelerate does inside an accumulation window."""

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        GradientState().sync_gradients = False

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        GradientState().sync_gradients = True
