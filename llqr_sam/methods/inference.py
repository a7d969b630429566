"""The state in which a refresh calls the network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def differentiable_inference(model: nn.Module) -> Iterator[None]:
    """Inference mode for every module, gradients on, autocast off, attention in differentiable form, nothing compiled.

    A compiled graph has no second derivative, and one that a module or its part was compiled to is otherwise called.
    """
    training = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device.type
    model.eval()
    recurrent = any(isinstance(module, nn.RNNBase) for module in training)
    cudnn = torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()  # no 2nd derivative
    try:
        with (
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
            cudnn,
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        for module, was_training in training.items():
            module.training = was_training
