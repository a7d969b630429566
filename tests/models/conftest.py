"""What every network must be able to do: differentiate forward, and twice backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, linearize
from torch.nn.attention import SDPBackend, sdpa_kernel


def _check_curvature_products(model: nn.Module, images: Tensor) -> None:
    """J v by ``linearize`` equals J v by double backward, as LLQR's curvature products need."""
    model.eval()
    parameters = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    torch.manual_seed(1)
    tangent = {name: torch.randn_like(p) * 0.01 for name, p in parameters.items()}

    def outputs(values: dict[str, Tensor]) -> Tensor:
        return functional_call(model, values, (images,))

    with sdpa_kernel(SDPBackend.MATH):
        _, jvp = linearize(outputs, {name: p.detach() for name, p in parameters.items()})
        forward = jvp(tangent)
        logits = outputs(parameters)
        cotangent = torch.zeros_like(logits, requires_grad=True)
        pulled_back = torch.autograd.grad(logits, list(parameters.values()), cotangent, create_graph=True)
        inner = sum((g * tangent[name]).sum() for name, g in zip(parameters, pulled_back, strict=True))
        (backward,) = torch.autograd.grad(inner, cotangent)
    assert forward.abs().max() > 0
    torch.testing.assert_close(forward, backward, rtol=1e-7, atol=1e-9)


@pytest.fixture
def check_curvature_products() -> Callable[[nn.Module, Tensor], None]:
    """Assertion on a float64 network and images it takes."""
    return _check_curvature_products
