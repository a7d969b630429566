"""What LLQR needs of a Hugging Face model, which takes keyword batches and returns an object: logits and their loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad


class Logits(nn.Sequential):
    """A model and what to read off its output: ``LLQR(Logits(model))``. The parameters are the model's own tensors."""

    def forward(self, **batch: Any) -> Tensor:  # type: ignore[override]
        # The class's own forward, since accelerate gives the instance one that lowers the precision.
        logits: Tensor = type(self[0]).forward(self[0], **batch).logits
        return logits


def token_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """The mean cross-entropy of logits ``[..., C]`` and integer labels ``[...]``, of which -100 are padding."""
    return cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=smoothing)


@torch.no_grad()
def labels_of(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Returns the label of each position of the logits.

    These are the batch's labels, or in a causal language model those of the next position. The model's own loss tells.

    Args:
        model: A model with ``loss`` and ``logits`` in its output; it is left in evaluation mode.
        batch: Its keyword arguments.

    Raises:
        ValueError: the model's loss is not the mean cross-entropy of integer labels.
    """
    model.eval()  # the losses compared below are of one network, without dropout
    labels, output = batch.get("labels"), type(model).forward(model, **batch)
    if isinstance(labels, Tensor) and not labels.is_floating_point():
        for candidate in (labels, pad(labels[..., 1:], (0, 1), value=-100)):
            if torch.isclose(token_loss(output.logits.float(), candidate), output.loss.float(), 1e-4, equal_nan=True):
                return candidate
    raise ValueError("LLQR finds no cross-entropy of integer labels in this model's loss; override refresh for yours.")
