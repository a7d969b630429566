"""A sequential network as a layerwise linear-quadratic problem, every operator a dense matrix.

Training works on J(U) = g' delta + 1/2 delta' H delta (methods/llqr.py) and never needs this. Here is the problem that
J comes from, in the notation of docs/lqr_identity.md (1) and (2), so that the two can be compared: the activations x_i
of the *whole minibatch* are flattened to ``[X_i]``, stage i's parameters theta_i and their change u_i to ``[P_i]``. The
minibatch x_0 is constant, so stage 0 has an empty state, X_0 = 0, and its input may be anything, also tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from llqr_sam.methods.curvature.likelihoods import Likelihood, LikelihoodName, likelihood_of
from llqr_sam.methods.curvature.point import LossFunction
from llqr_sam.methods.curvature.products import Divergence, Reduction
from llqr_sam.methods.named import Named

Shapes = Mapping[str, torch.Size]


@dataclass(frozen=True)
class Stage:
    """One stage of the layerwise problem."""

    shapes: Shapes  # parameter name -> shape, in the order of theta_i
    A: Tensor  # df/dx, [X_{i+1}, X_i]
    B: Tensor  # df/dtheta, [X_{i+1}, P_i]
    Q: Tensor  # cost of the state, [X_i, X_i], symmetric
    R: Tensor  # cost of the control, [P_i, P_i], symmetric
    M: Tensor  # cross term, [P_i, X_i]

    def flat(self, named: Mapping[str, Tensor]) -> Tensor:
        """This stage's part of a named vector, ``[P_i]``."""
        return torch.cat([self.B.new_empty(0), *(named[name].reshape(-1) for name in self.shapes)])

    def named(self, flat: Tensor) -> Named:
        """Inverse of ``flat``."""
        return _unflatten(flat, self.shapes)


@dataclass(frozen=True)
class LayerwiseLQR:
    """The whole problem."""

    stages: Sequence[Stage]  # dynamics and running costs, in order
    terminal_gradient: Tensor  # q = dl/dx_N, [X_N]
    terminal_cost: Tensor  # Q_N, [X_N, X_N], symmetric

    def damped(self, damping: float) -> LayerwiseLQR:
        """The same problem with lambda = ``damping`` added to the diagonal of every R_i, so to that of H."""
        stages = [replace(s, R=s.R + damping * torch.eye(len(s.R), dtype=s.R.dtype)) for s in self.stages]
        return replace(self, stages=stages)

    def gradient(self) -> Named:
        """g = dl/dtheta, stage by stage: B_i' lambda_{i+1}."""
        costates = _costates([stage.A for stage in self.stages], self.terminal_gradient)
        gradient: Named = {}
        for stage, costate in zip(self.stages, costates[1:], strict=True):
            gradient |= stage.named(stage.B.T @ costate)
        return gradient


def layerwise_lqr(
    model: nn.Sequential,
    inputs: Tensor,
    targets: Tensor,
    loss_fn: LossFunction,
    *,
    divergence: Divergence = "ngd",
    reduction: Reduction = "sum",
    likelihood: LikelihoodName | Likelihood = "categorical",
    damping: float = 0.0,
) -> LayerwiseLQR:
    """Linearise a sequential network in inference mode and compute its costs; the options are those of ``LLQR``.

    The model must be float64, and its direct children are the stages; it is not changed. ``loss_fn`` is the mean loss.
    The problem is dense: memory grows with the square of the minibatch's activations.

    Raises:
        ValueError: An unknown divergence, parameters that are not float64, or one shared by two stages.
    """
    if divergence not in get_args(Divergence):
        raise ValueError(f"divergence={divergence} is not known. Choose from: {', '.join(get_args(Divergence))}.")
    with sdpa_kernel(SDPBackend.MATH):
        maps, outputs = _forward(copy.deepcopy(model).eval(), inputs)
        jacobians = [jacobian(stage.function, stage.point) for stage in maps]  # type: ignore[no-untyped-call]

        def terminal_loss(flat: Tensor) -> Tensor:
            return loss_fn(flat.view_as(outputs), targets)

        terminal_gradient = jacobian(terminal_loss, outputs.reshape(-1))  # type: ignore[no-untyped-call]
        if divergence == "newton":
            terminal_cost = _hessian(terminal_loss, outputs.reshape(-1))
            transitions = [both[:, : stage.states] for stage, both in zip(maps, jacobians, strict=True)]
            costates = _costates(transitions, terminal_gradient)[1:]
            costs = [stage.hamiltonian_hessian(costate) for stage, costate in zip(maps, costates, strict=True)]
        else:
            terminal_cost = _output_fisher(outputs, targets, likelihood_of(likelihood), reduction)
            costs = [outputs.new_zeros(len(stage.point), len(stage.point)) for stage in maps]
    stages = []
    for stage, both, cost in zip(maps, jacobians, costs, strict=True):
        x, theta = slice(None, stage.states), slice(stage.states, None)
        running = cost[x, x], cost[theta, theta], cost[theta, x]
        stages.append(Stage(stage.shapes, both[:, x], both[:, theta], *running))
    return LayerwiseLQR(stages, terminal_gradient, terminal_cost).damped(damping)


@dataclass(frozen=True)
class _StageMap:
    """f_i as a function of one flat vector w = (x_i, theta_i), and the point where it is linearised."""

    function: Callable[[Tensor], Tensor]
    point: Tensor
    states: int
    shapes: Shapes

    def hamiltonian_hessian(self, costate: Tensor) -> Tensor:
        """Second derivative of lambda_{i+1}' f_i in (x_i, theta_i), ``[X_i + P_i, X_i + P_i]``."""
        return _hessian(lambda w: costate @ self.function(w), self.point)


def _forward(model: nn.Sequential, inputs: Tensor) -> tuple[list[_StageMap], Tensor]:
    """The stages at this minibatch, and the network's outputs."""
    maps: list[_StageMap] = []
    home: dict[Tensor, str] = {}
    state = inputs
    children = [(n, m) for n, m in model.named_modules(remove_duplicate=False) if n and "." not in n]
    for name, module in children:
        parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        for n, parameter in parameters.items():
            if home.setdefault(parameter, name) != name:
                raise ValueError(f"stages {home[parameter]} and {name} share a parameter; a control acts in one stage.")
            if parameter.dtype != torch.float64:
                what = f"parameter {name}.{n} is {parameter.dtype}"
                raise ValueError(f"{what}, not torch.float64: call model.double() first.")
        maps.append(_stage_map(name, module, parameters, state, fixed=not maps))
        with torch.no_grad():
            state = module(state)
    return maps, state


def _stage_map(name: str, module: nn.Module, parameters: Named, state: Tensor, *, fixed: bool) -> _StageMap:
    shapes = {n: p.shape for n, p in parameters.items()}
    x = torch.empty(0, dtype=torch.float64) if fixed else state.reshape(-1)
    point = torch.cat([x, *(p.detach().reshape(-1) for p in parameters.values())])

    def function(w: Tensor) -> Tensor:
        argument = state if fixed else w[: len(x)].view_as(state)
        outputs: Tensor = functional_call(module, _unflatten(w[len(x) :], shapes), (argument,))
        return outputs.reshape(-1)

    return _StageMap(function, point, len(x), {f"{name}.{n}": shape for n, shape in shapes.items()})


def _costates(transitions: Sequence[Tensor], terminal: Tensor) -> list[Tensor]:
    """lambda_0 .. lambda_N from lambda_N, by lambda_i = A_i' lambda_{i+1}."""
    costates = [terminal]
    for A in reversed(transitions):
        costates.append(A.T @ costates[-1])
    return costates[::-1]


def _output_fisher(outputs: Tensor, targets: Tensor, likelihood: Likelihood, reduction: Reduction) -> Tensor:
    """Q_N = s M, ``[X_N, X_N]``, column by column."""
    product, count = likelihood.fisher(outputs, targets)
    basis = torch.eye(outputs.numel(), dtype=outputs.dtype)
    columns = vmap(lambda u: product(u.view_as(outputs)).reshape(-1))(basis)
    return columns if reduction == "sum" else columns / count


def _hessian(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """Second derivative of a scalar function, ``[n, n]``, reverse over reverse, one backward pass a row.

    ``torch.func.hessian`` would be faster, but is wrong (not even symmetric) for a layer norm as of torch 2.13.
    """
    derivative: Tensor = hessian(function, point)  # type: ignore[no-untyped-call]
    return derivative


def _unflatten(flat: Tensor, shapes: Shapes) -> Named:
    pieces = torch.split(flat, [shape.numel() for shape in shapes.values()])
    return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
