"""One minibatch as a closure: what ``Optimizer.step`` calls once, and a sharpness-aware optimizer twice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llqr_sam.data.streams import Inputs
from llqr_sam.engine.devices.cuda_graphs import Run, directly
from llqr_sam.engine.measurements.stopwatch import Stopwatch

PASSES = ("first_pass", "second_pass")


class GradientEvaluation:
    """Gradient of the mean loss on the minibatch it was last given.

    Args:
        model: Inputs ``[B, C, H, W]`` to outputs ``[B, classes]``, or a tuple of them spread over its arguments.
        loss_fn: Outputs and targets to the mean loss.
        zero_grad: Clears the gradients that ``backward`` adds to.
        watch: Gets the time of each pass.
        device: Where the model is.
        bfloat16: Run the model under bfloat16 autocast; the loss is float32 either way.
        accumulate: Micro-batches k. Each one's mean loss is weighted by its share of the samples, so the gradient is
            the whole minibatch's wherever samples do not see each other (they do in batch-norm).
        average_gradients: Called when the gradient of this process's share of the minibatch is complete.
        run: How one gradient evaluation is carried out: ``directly``, or as a CUDA graph by a ``GraphedEvaluation``.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        zero_grad: Callable[[], None],
        watch: Stopwatch,
        device: torch.device,
        *,
        bfloat16: bool = False,
        accumulate: int = 1,
        average_gradients: Callable[[], None] = lambda: None,
        run: Run = directly,
    ) -> None:
        self._model = model
        self._loss_fn = loss_fn
        self._zero_grad = zero_grad
        self._watch = watch
        self._device = device
        self._bfloat16 = bfloat16
        self._accumulate = accumulate
        self._average_gradients = average_gradients
        self._run = run
        self._parts: list[tuple[Inputs, Tensor]] = []
        self._size = 0
        self._losses: list[Tensor] = []

    def take(self, inputs: Inputs, targets: Tensor) -> None:
        """Use this minibatch from now on; its passes are counted from the first."""
        parts = self._accumulate
        self._parts = (
            [(inputs, targets)]
            if parts == 1 or isinstance(inputs, tuple)
            else list(zip(inputs.tensor_split(parts), targets.tensor_split(parts), strict=True))
        )
        self._size = len(targets)
        self._losses.clear()

    @property
    def loss(self) -> Tensor:
        """Loss of the first pass, that is at theta and not at theta + eps; scalar, detached."""
        return self._losses[0]

    def __call__(self) -> Tensor:
        """Leave the gradient in the parameters and return the loss, detached."""
        with self._watch(PASSES[min(len(self._losses), 1)]), torch.enable_grad():
            self._zero_grad()
            losses = [self._run(self._backward, inputs, targets) for inputs, targets in self._parts]
            loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
            self._average_gradients()
        self._losses.append(loss)
        return loss

    def _backward(self, inputs: Inputs, targets: Tensor) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            outputs = self._model(*inputs) if isinstance(inputs, tuple) else self._model(inputs)
        loss = self._loss_fn(outputs.float() if self._bfloat16 else outputs, targets)
        if len(self._parts) > 1:
            loss = loss * (len(targets) / self._size)
        torch.autograd.backward(loss)
        return loss.detach()
