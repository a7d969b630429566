"""The exact solution of the layerwise problem, by the Riccati recursion (equations: docs/methods.md, section 2.7).

K and lambda are the quadratic and linear terms of the cost-to-go; below they are those of stage i + 1, and the stage's
index is left out. The result is -(H + damping I)^-1 g without H ever being formed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llqr_sam.methods.named import Named
from llqr_sam.studies.theory.control.stages import LayerwiseLQR, Stage


def riccati(problem: LayerwiseLQR) -> Named:
    """The controls delta theta at which J is stationary: its minimiser if H is positive definite.

    Raises a ValueError if S is singular at some stage. Without damping it nearly always is.
    """
    K, costate = problem.terminal_cost, problem.terminal_gradient
    policies: list[tuple[Tensor, Tensor]] = []
    for stage in reversed(problem.stages):
        gain, offset, K, costate = _backward(stage, K, costate)
        policies.append((gain, offset))
    x = costate.new_zeros(problem.stages[0].A.shape[1])
    delta: Named = {}
    for stage, (gain, offset) in zip(problem.stages, reversed(policies), strict=True):
        u = -(gain @ x + offset)
        delta |= stage.named(u)
        x = stage.A @ x + stage.B @ u
    return delta


def _backward(stage: Stage, K: Tensor, costate: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of the recursion: gain and offset of the policy u = -(gain x + offset), then K and lambda at stage i."""
    KB = K @ stage.B
    S = stage.R + stage.B.T @ KB
    G = stage.M + KB.T @ stage.A
    pull = stage.B.T @ costate
    solved, info = torch.linalg.solve_ex(S, torch.cat([G, pull.unsqueeze(1)], dim=1))
    if info != 0:
        raise ValueError(f"R + B'KB is singular for the stage of {', '.join(stage.shapes)}: damping must be > 0.")
    gain, offset = solved[:, :-1], solved[:, -1]
    before = stage.A.T @ K @ stage.A + stage.Q - G.T @ gain
    return gain, offset, 0.5 * (before + before.T), stage.A.T @ costate - G.T @ offset
