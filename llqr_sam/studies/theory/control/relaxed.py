"""The relaxed objective of LLQR (the paper's eq. 9) by rollout: J as a function of the factors of U.

U is written here a second time, kernel by kernel and in the paper's convention X = W' in R^{m x n}, without stacking or
low-rank tracking, and dJ/dU comes from autograd through these five lines.

    diagonal    d * x
    kfac        A X B'
    ekfac       Q_A (D * (Q_A' X Q_B)) Q_B'
    diag_kfac   diag(a) X diag(b)
    dense       U vec(W)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llqr_sam.methods.blocks.block import Factors
from llqr_sam.methods.blocks.layout import Kernel
from llqr_sam.methods.named import Named
from llqr_sam.studies.theory.control.rollout import adjoint, rollout
from llqr_sam.studies.theory.control.stages import LayerwiseLQR


def relaxed_objective(
    problem: LayerwiseLQR, kernels: list[Kernel], factors: Mapping[str, Factors]
) -> tuple[Tensor, dict[str, Factors]]:
    """J(U), the rollout's cost under delta theta = -U g, and its gradient in every factor.

    Args:
        problem: The layerwise problem.
        kernels: The model's kernels, ``layout(model)[0]``.
        factors: Parameter name -> factor name -> factor (``LLQR.named_factors``).

    Returns:
        J, 0-d, and dJ/dfactor under the same names.
    """
    leaves = {name: {k: f.detach().requires_grad_() for k, f in own.items()} for name, own in factors.items()}
    with torch.enable_grad():
        transported = apply_metric(kernels, leaves, problem.gradient())
    delta = {name: -u.detach() for name, u in transported.items()}
    trajectory = rollout(problem, delta)
    costate = adjoint(problem, trajectory)
    outputs, along = list(transported.values()), [-costate[name] for name in transported]
    pulled = torch.autograd.grad(outputs, [factor for own in leaves.values() for factor in own.values()], along)
    parts = iter(pulled)
    return trajectory.cost, {name: {key: next(parts) for key in own} for name, own in leaves.items()}


def apply_metric(kernels: list[Kernel], factors: Mapping[str, Factors], v: Mapping[str, Tensor]) -> Named:
    """U v; arguments as for ``relaxed_objective``."""
    shaped = {kernel.name: kernel for kernel in kernels}
    return {name: _apply(shaped.get(name), own, v[name]) for name, own in factors.items()}


def _apply(kernel: Kernel | None, f: Factors, x: Tensor) -> Tensor:
    if kernel is None or "d" in f:
        return f["d"] * x
    W = kernel.matrices(x)
    X = W.mT
    if "A" in f:
        B = torch.diag_embed(f["b"]) if kernel.vocabulary else f["B"]
        UX = f["A"] @ X @ B.mT
    elif "D" in f:
        Q_B = torch.eye(kernel.n, dtype=x.dtype, device=x.device) if kernel.vocabulary else f["Q_B"]
        UX = f["Q_A"] @ (f["D"].mT * (f["Q_A"].mT @ X @ Q_B)) @ Q_B.mT
    elif "a" in f:
        UX = torch.diag_embed(f["a"]) @ X @ torch.diag_embed(f["b"])
    else:
        UX = torch.einsum("kij,kj->ki", f["U"], W.flatten(1)).view_as(W).mT
    return kernel.tensor(UX.mT)
