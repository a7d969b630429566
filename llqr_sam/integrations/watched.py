"""A loop's calls of its model and its loss function, kept so that the second pass can make them again.

They are seen by hooks, so the loop stays as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class MicroBatch:
    """What one call of the model, and of the loss function on its outputs, was given."""

    inputs: tuple[Any, ...]
    named: dict[str, Any]
    autocast: torch.autocast
    targets: Any = None
    weight: Tensor | None = None  # of the loss function's result in the loss that the loop derives from it


class Watched:
    """The micro-batches since the last update.

    Args:
        model: Network, as the loop calls it in training mode.
        loss_fn: Loss function, as the loop calls it on outputs and targets.
    """

    def __init__(self, model: nn.Module, loss_fn: nn.Module) -> None:
        self._model, self._loss_fn = model, loss_fn
        self._device = next(model.parameters()).device.type
        self._window: list[MicroBatch] = []
        self._loss: Tensor | None = None  # the last that loss_fn returned
        self._watching, self._compared = True, False
        self._hooks = [
            model.register_forward_pre_hook(self._see_inputs, with_kwargs=True),
            loss_fn.register_forward_hook(self._see_loss),
        ]

    def close(self) -> None:
        """Stops watching."""
        for hook in self._hooks:
            hook.remove()

    def weigh(self, loss: Tensor) -> None:
        """Finds the weight of the last micro-batch, such as 1/2 under accumulation of two.

        Args:
            loss: What the loop calls backward on; a multiple of what loss_fn returned.

        Raises:
            RuntimeError: it does not come from one call of model and loss_fn, or it has a term of the loop's own.
        """
        seen, self._loss = self._loss, None
        weight = None if seen is None else torch.autograd.grad(loss, seen, retain_graph=True, allow_unused=True)[0]
        if self._window:
            self._window[-1].weight = weight
        if seen is None or weight is None or any(batch.weight is None for batch in self._window):
            self._window = []
            raise RuntimeError(
                "the loss does not come from one call of the watched model and loss_fn in training mode; "
                "give the two that the loop calls."
            )
        whole, known = loss.detach(), weight * seen.detach()
        if not self._compared and not torch.isclose(whole, known, rtol=8 * torch.finfo(whole.dtype).eps):
            raise RuntimeError(
                f"the loss is {float(whole):.6g}, of which {float(known):.6g} comes from loss_fn: the loop adds a term "
                "that the second pass would leave out; add it inside loss_fn."
            )
        self._compared = True  # once, since a GPU waits for it, and a loop does not change

    @contextlib.contextmanager
    def taken(self) -> Iterator[list[MicroBatch]]:
        """Hands over the micro-batches and forgets them; calls made inside the context are not watched."""
        window, self._window, self._watching = self._window, [], False
        try:
            yield window
        finally:
            self._watching = True

    def losses(self, window: list[MicroBatch]) -> Iterator[Tensor]:
        """Yields each micro-batch's weighted loss, for the caller to call backward on before the next.

        Args:
            window: What ``taken`` gave. Processes exchange gradients in the backward pass of the last one alone.
        """
        for batch in window:
            alone = getattr(self._model, "no_sync", contextlib.nullcontext)
            with contextlib.nullcontext() if batch is window[-1] else alone():
                with batch.autocast:
                    loss = self._loss_fn(self._model(*batch.inputs, **batch.named), batch.targets)
                yield loss * batch.weight

    def _see_inputs(self, model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self._watching and model.training and torch.is_grad_enabled():
            enabled, dtype = torch.is_autocast_enabled(self._device), torch.get_autocast_dtype(self._device)
            self._window.append(MicroBatch(inputs, named, torch.autocast(self._device, dtype, enabled)))

    def _see_loss(self, loss_fn: nn.Module, arguments: tuple[Any, ...], loss: Tensor) -> Tensor | None:
        if not self._watching or not self._window or not torch.is_grad_enabled():
            return None
        _, self._window[-1].targets = arguments
        self._loss = loss
        return loss.clone()  # which timm divides in place
