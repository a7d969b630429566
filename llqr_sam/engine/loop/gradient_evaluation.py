"""One minibatch as a closure: ``Optimizer.step`` calls it once, a sharpness-aware optimizer twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from llqr_sam.data.streams import Inputs
from llqr_sam.engine.devices.acceleration import CudaGraph
from llqr_sam.engine.measurements.stopwatch import Stopwatch


@dataclass(eq=False)
class GradientEvaluation:
    """Gradient of the mean loss on the minibatch that it was last given."""

    model: Callable[..., Tensor]  # inputs [B, C, H, W], or a tuple spread over its arguments, to outputs [B, classes]
    loss_fn: Callable[[Tensor, Tensor], Tensor]  # outputs and targets to the mean loss
    zero_grad: Callable[[], None]  # clears the gradients that ``backward`` adds to
    watch: Stopwatch  # gets the time of each pass
    device: torch.device  # where the model is
    bfloat16: bool = False  # run the model under bfloat16 autocast; the loss is float32 either way
    accumulate: int = 1  # micro-batches; the gradient is the whole minibatch's, but for batch-norm
    average_gradients: Callable[[], None] = lambda: None  # called when this process's gradient is complete
    graph: CudaGraph | None = None  # captures and replays the evaluation; None: run it kernel by kernel
    _micro_batches: list[tuple[Inputs, Tensor]] = field(default_factory=list, init=False)
    _losses: list[Tensor] = field(default_factory=list, init=False)

    def take(self, inputs: Inputs, targets: Tensor) -> None:
        """Use this minibatch from now on."""
        if self.accumulate == 1 or isinstance(inputs, tuple):
            self._micro_batches = [(inputs, targets)]
        else:
            parts = inputs.tensor_split(self.accumulate), targets.tensor_split(self.accumulate)
            self._micro_batches = list(zip(*parts, strict=True))
        self._size = len(targets)
        self._losses.clear()

    @property
    def loss(self) -> Tensor:
        """Loss of the first pass, at theta and not at theta + eps; 0-d, detached."""
        return self._losses[0]

    def __call__(self) -> Tensor:
        """Leave the gradient in the parameters and return the loss, detached."""
        with self.watch("second_pass" if self._losses else "first_pass"), torch.enable_grad():
            self.zero_grad()
            evaluate = partial(self.graph, self._backward) if self.graph else self._backward
            losses = [evaluate(*micro_batch) for micro_batch in self._micro_batches]
            loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
            self.average_gradients()
        self._losses.append(loss)
        return loss

    def _backward(self, inputs: Inputs, targets: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            outputs = self.model(*inputs) if isinstance(inputs, tuple) else self.model(inputs)
        loss = self.loss_fn(outputs.float() if self.bfloat16 else outputs, targets)
        if len(self._micro_batches) > 1:
            loss = loss * (len(targets) / self._size)
        torch.autograd.backward(loss)
        return loss.detach()
