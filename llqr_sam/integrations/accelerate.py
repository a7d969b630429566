"""The sharpness-aware step in a training loop with Hugging Face's accelerate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from llqr_sam.integrations.windows import clip, sharpness_aware_of, take_step


class AcceleratedStep:
    """The optimizer step of a loop under ``accelerator.accumulate``, in any precision, in one process or several.

        step = AcceleratedStep(accelerator, model, optimizer, lambda x, y: loss_fn(model(x), y), max_norm=1.0)
        for x, y in batches:
            with accelerator.accumulate(model):
                loss = step(x, y)

    It replaces ``accelerator.backward``, ``accelerator.clip_grad_norm_`` and ``optimizer.step``. The micro-batches of a
    window are kept until its last one, and are then evaluated twice each.

    Args:
        accelerator: The ``accelerate.Accelerator`` of the loop.
        model: The network, as ``accelerator.prepare`` returned it.
        optimizer: The ``SharpnessAware``, as ``accelerator.prepare`` returned it.
        loss_of: ``loss_of(*batch)`` returns the mean loss of a micro-batch, 0-d.
        max_norm: L2 norm, > 0, to which the final gradient is clipped; ``None`` does not clip.

    Attributes:
        norm: L2 norm of the last step's final gradient before clipping, a 0-d tensor; ``None`` where float16 overflowed
            and the step was skipped.

    Raises:
        TypeError: the optimizer is not a ``SharpnessAware``.
        ValueError: max_norm is out of its range, or the distributed strategy shards or steps the parameters itself.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer,
        loss_of: Callable[..., Tensor],
        *,
        max_norm: float | None = None,
    ) -> None:
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm={max_norm} must be > 0, or None for no clipping.")
        self.accelerator, self.model, self.optimizer, self.loss_of = accelerator, model, optimizer, loss_of
        self.max_norm = max_norm
        self.norm: Tensor | None = None
        self._window: list[Callable[[], Tensor]] = []
        sharpness_aware_of(accelerator, optimizer).base.register_step_pre_hook(self._clip)

    def __call__(self, *batch: Any, **named: Any) -> Tensor | None:
        """Keeps a micro-batch, and takes the step where ``accelerator.sync_gradients``.

        Args:
            batch, named: Arguments of ``loss_of``. Nothing may overwrite them before the window ends.

        Returns:
            At the end of a window its mean loss at the unperturbed point, a 0-d tensor; before that ``None``.
        """

        def evaluate() -> Tensor:
            loss = self.loss_of(*batch, **named)
            self.accelerator.backward(loss)  # divides by the number of accumulation steps
            return loss.detach()

        self._window.append(evaluate)
        if not self.accelerator.sync_gradients:
            return None
        window, self._window, self.norm = self._window, [], None
        return take_step(self.accelerator, self.model, self.optimizer, window) / len(window)

    def _clip(self, *_: Any) -> None:
        self.norm = clip(self.model, self.max_norm)
