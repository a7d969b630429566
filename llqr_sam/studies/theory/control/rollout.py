"""The layerwise objective by simulation: roll the linearised network forward, add up its cost, differentiate backwards.

Notation as in stages.py, u_i = delta theta_i. With the trajectory delta x of controls u, the gradient of

    J(u) = q' delta x_N + 1/2 delta x_N' Q_N delta x_N
           + sum_i 1/2 delta x_i' Q_i delta x_i + 1/2 u_i' R_i u_i + u_i' M_i delta x_i

comes from the costate recursion of the quadratic problem,

    p_N = q + Q_N delta x_N,   p_i = A_i' p_{i+1} + Q_i delta x_i + M_i' u_i,
    dJ/du_i = B_i' p_{i+1} + R_i u_i + M_i delta x_i.

docs/lqr_identity.md shows that J(u) = g' u + 1/2 u' H u and dJ/du = g + H u.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from llqr_sam.methods.named import Named
from llqr_sam.studies.theory.control.stages import LayerwiseLQR


@dataclass(frozen=True)
class Trajectory:
    """The effect of one set of controls."""

    states: Sequence[Tensor]  # delta x_0 .. delta x_N, [X_i] each
    controls: Sequence[Tensor]  # delta theta_0 .. delta theta_{N-1}, [P_i] each
    cost: Tensor  # J, 0-d


def rollout(problem: LayerwiseLQR, delta: Named) -> Trajectory:
    """Run delta x_{i+1} = A_i delta x_i + B_i delta theta_i from zero and add up the costs.

    Args:
        problem: The layerwise problem.
        delta: Parameter name -> delta theta, for every parameter of the problem.
    """
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
    """dJ/d(delta theta) along a trajectory, by the costate recursion; name -> tensor like the parameter."""
    costate = problem.terminal_gradient + problem.terminal_cost @ trajectory.states[-1]
    gradient: Named = {}
    along = list(zip(problem.stages, trajectory.states[:-1], trajectory.controls, strict=True))
    for stage, x, u in reversed(along):
        gradient |= stage.named(stage.B.T @ costate + stage.R @ u + stage.M @ x)
        costate = stage.A.T @ costate + stage.Q @ x + stage.M.T @ u
    return gradient
