"""One minibatch as a closure: ``Optimizer.step`` calls it once, a sharpness-aware optimizer twice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llqr_sam.data.streams import Inputs
from llqr_sam.engine.devices.cuda_graphs import CudaGraph
from llqr_sam.engine.measurements.stopwatch import Stopwatch


class GradientEvaluation:
    """Gradient of the mean loss on the minibatch that it was last given.

    Args:
        model: Inputs ``[B, C, H, W]``, or a tuple spread over its arguments, to outputs ``[B, classes]``.
        loss_fn: Outputs and targets to the mean loss.
        zero_grad: Clears the gradients that ``backward`` adds to.
        watch: Gets the time of each pass.
        device: Where the model is.
        bfloat16: Run the model under bfloat16 autocast; the loss is float32 either way.
        accumulate: Number of micro-batches. Each one's mean loss is weighted by its share of the samples, so the
            gradient is the whole minibatch's where samples are independent (they are not in batch-norm).
        average_gradients: Called when the gradient of this process's share of the minibatch is complete.
        graph: Captures and replays the evaluation; None: run it kernel by kernel.
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
        graph: CudaGraph | None = None,
    ) -> None:
        self._model = model
        self._loss_fn = loss_fn
        self._zero_grad = zero_grad
        self._watch = watch
        self._device = device
        self._bfloat16 = bfloat16
        self._accumulate = accumulate
        self._average_gradients = average_gradients
        self._graph = graph
        self._micro_batches: list[tuple[Inputs, Tensor]] = []
        self._size = 0
        self._losses: list[Tensor] = []

    def take(self, inputs: Inputs, targets: Tensor) -> None:
        """Use this minibatch from now on; its passes are counted from the first."""
        if self._accumulate == 1 or isinstance(inputs, tuple):
            self._micro_batches = [(inputs, targets)]
        else:
            parts = inputs.tensor_split(self._accumulate), targets.tensor_split(self._accumulate)
            self._micro_batches = list(zip(*parts, strict=True))
        self._size = len(targets)
        self._losses.clear()

    @property
    def loss(self) -> Tensor:
        """Loss of the first pass, at theta and not at theta + eps; 0-d, detached."""
        return self._losses[0]

    def __call__(self) -> Tensor:
        """Leave the gradient in the parameters and return the loss, detached."""
        with self._watch("second_pass" if self._losses else "first_pass"), torch.enable_grad():
            self._zero_grad()
            losses = [self._evaluate(*micro_batch) for micro_batch in self._micro_batches]
            loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
            self._average_gradients()
        self._losses.append(loss)
        return loss

    def _evaluate(self, inputs: Inputs, targets: Tensor) -> Tensor:
        return self._graph(self._backward, inputs, targets) if self._graph else self._backward(inputs, targets)

    def _backward(self, inputs: Inputs, targets: Tensor) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            outputs = self._model(*inputs) if isinstance(inputs, tuple) else self._model(inputs)
        loss = self._loss_fn(outputs.float() if self._bfloat16 else outputs, targets)
        if len(self._micro_batches) > 1:
            loss = loss * (len(targets) / self._size)
        torch.autograd.backward(loss)
        return loss.detach()
