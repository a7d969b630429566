"""Two ways to spend less time on starting kernels: a compiled network, and a gradient evaluation as a CUDA graph.

Forward and backward pass are captured once, on a minibatch in fixed memory, and replayed on each minibatch copied
there. The graph reads the parameters and updates the batch-norm statistics in place, so both passes of a
sharpness-aware step replay it. As in PyTorch's notes: warm up on a side stream, clear the gradients, capture.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn

from llqr_sam.data.streams import Inputs
from llqr_sam.engine.devices.device import random_state, set_random_state

WARM_UPS = 3  # evaluations before the capture, in which cuDNN and the compiler choose their kernels
# Whether Inductor chooses kernels by timing them in deterministic runs, too, to measure what the choice by rule costs.
# What is compiled so may give other bits elsewhere.
times_kernels = ContextVar("times_kernels", default=False)


def compiled(model: nn.Module, *, deterministic: bool) -> nn.Module:
    """``model`` with its forward pass compiled, at the first call in training and the first in inference mode.

    Shapes are static: a smaller last test minibatch is compiled once more, and nothing after the first epoch. A network
    that is not one graph, or that would be recompiled repeatedly, raises instead of running uncompiled. Deterministic
    kernels are chosen by rule, not by timing, if this version of PyTorch can: another process chooses the same.
    """
    torch.compiler.reset()  # the graphs of earlier runs in this process would count towards the limit
    options: dict[str, Any] = {}
    if deterministic and not times_kernels.get() and "deterministic" in torch._inductor.list_options():
        options["deterministic"] = True
    return cast("nn.Module", torch.compile(model, fullgraph=True, dynamic=False, options=options or None))


class CudaGraph:
    """Captures the first evaluation of ``model`` that it is given, and replays it from then on.

    Parameters and buffers must stay where they are in memory. There is no fallback: what cannot be captured raises,
    from PyTorch, at the first step; another device than CUDA raises ValueError.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        if device.type != "cuda":
            raise ValueError(f"precision.cuda_graphs=true needs a CUDA device, not device={device}.")
        self._model, self._device = model, device
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, evaluate: Callable[[Inputs, Tensor], Tensor], inputs: Inputs, targets: Tensor) -> Tensor:
        """Evaluate a minibatch of the captured shape and return a copy of the loss.

        ``evaluate`` returns the loss, 0-d and detached, and adds its gradient to ``.grad``. The gradient's memory is
        overwritten by the next call. Raises ValueError for another shape and for several tensors of inputs.
        """
        if not isinstance(inputs, Tensor):
            raise ValueError("precision.cuda_graphs=true needs minibatches of one shape. Choose precision=default.")
        if self._graph is None:
            self._inputs, self._targets = inputs.clone(), targets.clone()
            with torch.cuda.device(self._device):
                self._graph, self._loss = self._capture(evaluate)
            self._gradients = [parameter.grad for parameter in self._parameters]
        elif inputs.shape != self._inputs.shape or targets.shape != self._targets.shape:
            raise ValueError(
                f"a CUDA graph of minibatches {list(self._inputs.shape)} cannot take one of {list(inputs.shape)}."
            )
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._loss.clone()

    def _capture(self, evaluate: Callable[[Inputs, Tensor], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """The graph and its loss; batch-norm statistics and random state are restored afterwards."""
        buffers = list(self._model.buffers())
        kept = [buffer.clone() for buffer in buffers]
        random = random_state(self._device)
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._clear_gradients()
                evaluate(self._inputs, self._targets)
        torch.cuda.current_stream(self._device).wait_stream(side)
        self._clear_gradients()  # so that new ones are made in the graph's own memory
        graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that pins minibatches goes on allocating during the capture.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            loss = evaluate(self._inputs, self._targets)
        for buffer, before in zip(buffers, kept, strict=True):
            buffer.copy_(before)
        set_random_state(random, self._device)
        return graph, loss

    def _clear_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
