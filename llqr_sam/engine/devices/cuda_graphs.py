"""One gradient evaluation as a CUDA graph: a few hundred kernels started by one call.

Forward and backward pass are captured once, on a minibatch held in fixed memory, and replayed on each minibatch copied
there. The graph reads the parameters and moves the batch-norm statistics where they lie, so both passes of a
sharpness-aware step replay the same graph; perturbation, transport and update stay outside, where they may keep
counts in Python. The steps are those of PyTorch's notes on CUDA graphs: warm up on a side stream, clear the
gradients, capture.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llqr_sam.data.streams import Inputs
from llqr_sam.engine.devices import device as devices

Evaluation = Callable[[Inputs, Tensor], Tensor]
"""Inputs and targets to the loss, scalar and detached; adds its gradient to ``.grad``."""

Run = Callable[[Evaluation, Inputs, Tensor], Tensor]
"""Carries out an evaluation on a minibatch and returns its loss."""

WARM_UPS = 3  # evaluations before the capture, in which cuDNN and the compiler choose their kernels


def directly(evaluate: Evaluation, inputs: Inputs, targets: Tensor) -> Tensor:
    """Kernel by kernel."""
    return evaluate(inputs, targets)


class GraphedEvaluation:
    """Captures the first evaluation it is given, and replays that one ever after.

    Args:
        model: The network that is evaluated. Its parameters and buffers must stay where they are in memory.
        device: Where it is.

    Raises:
        ValueError: not a CUDA device.

    Nothing falls back to plain evaluation: what cannot be captured raises, from PyTorch, at the first step.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        if device.type != "cuda":
            raise ValueError(f"precision.cuda_graphs=true needs a CUDA device, not device={device}.")
        self._model = model
        self._device = device
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._captured: _Captured | None = None

    def __call__(self, evaluate: Evaluation, inputs: Inputs, targets: Tensor) -> Tensor:
        """The loss of the minibatch; its gradient is in ``.grad``, in memory that the next call writes to.

        Raises:
            ValueError: the minibatch is of another shape than the captured one, or not one tensor of inputs.
        """
        if not isinstance(inputs, Tensor):
            raise ValueError("precision.cuda_graphs=true needs minibatches of one shape. Choose precision=default.")
        if self._captured is None:
            with torch.cuda.device(self._device):
                self._captured = self._capture(evaluate, inputs.clone(), targets.clone())
        loss = self._captured.replay(inputs, targets)
        for parameter, gradient in zip(self._parameters, self._captured.gradients, strict=True):
            parameter.grad = gradient
        return loss

    def _capture(self, evaluate: Evaluation, inputs: Tensor, targets: Tensor) -> _Captured:
        """The graph; batch-norm statistics and random state are as if nothing had been evaluated."""
        buffers = list(self._model.buffers())
        kept = [buffer.clone() for buffer in buffers]
        random = devices.random_state(self._device)
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._clear()
                evaluate(inputs, targets)
        torch.cuda.current_stream(self._device).wait_stream(side)
        self._clear()  # so that the gradients are made anew, in the graph's own memory
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on allocating meanwhile: the one that pins minibatches does.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            loss = evaluate(inputs, targets)
        for buffer, before in zip(buffers, kept, strict=True):
            buffer.copy_(before)
        devices.set_random_state(random, self._device)
        return _Captured(graph, inputs, targets, loss, [parameter.grad for parameter in self._parameters])

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


class _Captured:
    """A graph and the memory it reads and writes."""

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        inputs: Tensor,
        targets: Tensor,
        loss: Tensor,
        gradients: list[Tensor | None],
    ) -> None:
        self._graph = graph
        self._inputs, self._targets, self._loss = inputs, targets, loss
        self.gradients = gradients

    def replay(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Evaluate another minibatch of the same shapes; the loss is a copy, since the next replay overwrites it."""
        if inputs.shape != self._inputs.shape or targets.shape != self._targets.shape:
            raise ValueError(
                f"a CUDA graph of minibatches {list(self._inputs.shape)} cannot take one of {list(inputs.shape)}."
            )
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._graph.replay()
        return self._loss.clone()
