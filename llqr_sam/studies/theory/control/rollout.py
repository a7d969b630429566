"""The layerwise objective by simulation: roll the linearised network forward, add up its cost, differentiate backwards.

Notation and recursions are those of docs/lqr_identity.md; J(u) = g' u + 1/2 u' H u and dJ/du = g + H u. The relaxed
objective J(U) (the paper's eq. 9) is J at u = -U g. Here U is written a second time, kernel by kernel and in the
paper's convention X = W' in R^{m x n}, without stacking or low-rank tracking; autograd pulls dJ/du back to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llqr_sam.methods.blocks.block import Factors
from llqr_sam.methods.blocks.layout import Kernel
from llqr_sam.methods.named import Named
from llqr_sam.studies.theory.control.stages import LayerwiseLQR


@dataclass(frozen=True)
class Trajectory:
    """The effect of one set of controls."""

    states: Sequence[Tensor]  # delta x_0 .. delta x_N, [X_i] each
    controls: Sequence[Tensor]  # delta theta_0 .. delta theta_{N-1}, [P_i] each
    cost: Tensor  # J, 0-d


def rollout(problem: LayerwiseLQR, delta: Named) -> Trajectory:
    """Run delta x_{i+1} = A_i delta x_i + B_i delta theta_i from zero and add up the costs."""
    controls = [stage.flat(delta) for stage in problem.stages]
    states = [controls[0].new_zeros(problem.stages[0].A.shape[1])]
    cost = controls[0].new_zeros(())
    for stage, u in zip(problem.stages, controls, strict=True):
        x = states[-1]
        cost = cost + 0.5 * (x @ stage.Q @ x + u @ stage.R @ u) + u @ stage.M @ x
        states.append(stage.A @ x + stage.B @ u)
    end = states[-1]
    cost = cost + problem.terminal_gradient @ end + 0.5 * end @ problem.terminal_cost @ end
    return Trajectory(states, controls, cost)


def adjoint(problem: LayerwiseLQR, trajectory: Trajectory) -> Named:
    """dJ/d(delta theta) along a trajectory, by the costate recursion p_i; name -> tensor like the parameter."""
    costate = problem.terminal_gradient + problem.terminal_cost @ trajectory.states[-1]
    gradient: Named = {}
    along = list(zip(problem.stages, trajectory.states[:-1], trajectory.controls, strict=True))
    for stage, x, u in reversed(along):
        gradient |= stage.named(stage.B.T @ costate + stage.R @ u + stage.M @ x)
        costate = stage.A.T @ costate + stage.Q @ x + stage.M.T @ u
    return gradient


def relaxed_objective(
    problem: LayerwiseLQR, kernels: list[Kernel], factors: Mapping[str, Factors]
) -> tuple[Tensor, dict[str, Factors]]:
    """J(U), the rollout's cost under delta theta = -U g, 0-d, and its gradient under the names of the factors.

    ``kernels`` are ``layout(model)[0]``; ``factors``: parameter name -> factor name -> factor (``LLQR.named_factors``).
    """
    leaves = {name: {k: f.detach().requires_grad_() for k, f in own.items()} for name, own in factors.items()}
    with torch.enable_grad():
        transported = apply_metric(kernels, leaves, problem.gradient())
    trajectory = rollout(problem, {name: -u.detach() for name, u in transported.items()})
    costate = adjoint(problem, trajectory)
    outputs, along = list(transported.values()), [-costate[name] for name in transported]
    pulled = iter(torch.autograd.grad(outputs, [factor for own in leaves.values() for factor in own.values()], along))
    return trajectory.cost, {name: {key: next(pulled) for key in own} for name, own in leaves.items()}


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
