"""The harness of Table 10 and of scripts/bench.py: methods on a network and a minibatch of random numbers.

The arithmetic of a step depends neither on the inputs nor on the learning rate, which is zero. A step is the trainer's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llqr_sam.engine.devices.acceleration import CudaGraph, compiled
from llqr_sam.engine.loop.gradient_evaluation import GradientEvaluation
from llqr_sam.engine.measurements.stopwatch import Stopwatch
from llqr_sam.engine.settings.run_settings import PrecisionSettings
from llqr_sam.methods import factory
from llqr_sam.methods.settings import MethodSettings


class Problem:
    """A network, a minibatch of random numbers and the loss.

    Args:
        model: The network; it is moved to ``device``.
        shape: Of the inputs, ``(batch, channels, side, side)``.
        classes: Of the targets.
        device: Where everything is.
        precision: How the arithmetic is done; ``None``: in float32.
        label_smoothing: Of the loss.

    Raises:
        ValueError: the precision asks for CUDA graphs, and the device has none.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int, int, int],
        classes: int,
        device: torch.device,
        precision: PrecisionSettings | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        torch.manual_seed(0)
        self.precision = how = precision or PrecisionSettings()
        self.model = model.to(device)
        self.device = device
        self.inputs = torch.randn(shape, device=device)
        if how.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in stubs
            self.inputs = self.inputs.to(memory_format=torch.channels_last)
        self.targets = torch.randint(0, classes, shape[:1], device=device)
        self.loss_fn = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.forward: Callable[[Tensor], Tensor] = self.model
        if how.compile:
            self.forward = compiled(self.model, deterministic=how.deterministic)
        self.graph = CudaGraph(self.model, device) if how.cuda_graphs else None

    @property
    def parameters(self) -> int:
        """How many the network has."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def evaluate(self) -> Tensor:
        """One gradient evaluation, forward and backward, in float32: the unit of every ratio."""
        self.model.zero_grad()
        loss: Tensor = self.loss_fn(self.model(self.inputs), self.targets)
        torch.autograd.backward(loss)
        return loss


class TimedMethod:
    """A method on a problem; several methods can share one problem.

    Attributes:
        metric: The metric U, if the method learns one.
    """

    def __init__(self, settings: MethodSettings, problem: Problem) -> None:
        self._problem, how = problem, problem.precision
        method = factory.build(settings, problem.model, fused=how.fused, curvature_dtype=how.curvature_dtype)
        self.metric, self._optimizer = method.metric, method.optimizer
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0
        self._evaluation = GradientEvaluation(
            problem.forward,
            problem.loss_fn,
            self._optimizer.zero_grad,
            Stopwatch(problem.device),
            problem.device,
            bfloat16=how.autocast == "bfloat16",
            accumulate=how.accumulate,
            graph=problem.graph,
        )

    def step(self) -> None:
        """One step of the optimizer."""
        self._evaluation.take(self._problem.inputs, self._problem.targets)
        self._optimizer.step(self._evaluation)  # type: ignore[arg-type]  # torch's stub wants a float

    def refresh(self, inner_steps: int) -> None:
        """One refresh of U with so many inner steps."""
        assert self.metric is not None
        self.metric.inner_steps = inner_steps
        self.metric.refresh(self._problem.inputs, self._problem.targets, self._problem.loss_fn)
