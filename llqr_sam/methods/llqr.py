"""LLQR: the learned inverse metric U (arXiv 2605.04230; the paper's appendix A).

With g and H the gradient and curvature of a preconditioner minibatch and delta = -U g,

    J(U) = g' delta + 1/2 delta' H delta        (paper, eq. 9, with the layerwise dynamics eliminated)
    c = g + H delta,   dJ/dU = -(d(U g)/dU)' c

so each inner step needs one curvature product and the closed-form pull-back of blocks.py, whatever the network.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from llqr_sam.methods.blocks import Block, Dense, DiagKFAC, Diagonal, Factors, KernelBlock, Learner
from llqr_sam.methods.curvature import (
    Curvature,
    Divergence,
    FisherCurvature,
    HessianCurvature,
    LossFunction,
    Reduction,
)
from llqr_sam.methods.descent import HeavyBall
from llqr_sam.methods.kronecker import EKFAC, KFAC
from llqr_sam.methods.layout import Kernel, Vector, layout
from llqr_sam.methods.likelihoods import Likelihood, LikelihoodName, likelihood_of
from llqr_sam.methods.metrics import Metric
from llqr_sam.methods.named import Named, dot

Structure = Literal["diagonal", "kfac", "ekfac", "diag_kfac", "dense"]
KERNEL_BLOCKS: dict[str, type[KernelBlock]] = {"kfac": KFAC, "ekfac": EKFAC, "diag_kfac": DiagKFAC, "dense": Dense}
PATIENCE = 3
"""Refreshes in a row that may come out non-finite before the run is stopped."""


class RefreshError(RuntimeError):
    """U could not be refreshed ``PATIENCE`` times in a row."""


@dataclass(frozen=True)
class RefreshReport:
    """What one refresh did.

    Attributes:
        objective_before: J at the stored U before the refresh.
        objective_after: J at the stored U after averaging, same minibatch.
        relative_change: |U g - g| / |g| after averaging: whether U does anything.
        fallbacks: Perturbations since the last refresh that fell back to the Euclidean norm.
        accepted: False where the refresh was not finite and U was kept as it was.
        seconds: Wall time.
    """

    objective_before: float
    objective_after: float
    relative_change: float
    fallbacks: int
    accepted: bool
    seconds: float

    def as_dict(self) -> dict[str, float | int | bool]:
        """Plain dictionary."""
        return asdict(self)


class LLQR(Metric):
    """The learned inverse metric U of a network, a probe and a transport for ``SharpnessAware``.

    Args:
        model: Any ``nn.Module`` that returns one tensor of outputs.
        divergence: "ngd" (Fisher matrix of the predictive distribution) or "newton" (Hessian of the loss).
        structure: "diagonal", "kfac", "ekfac", "diag_kfac", or "dense" for toys.
        inner_steps: T in Algorithm 2.
        inner_lr: Rate of the inner heavy ball, alpha.
        inner_momentum: Its momentum, buffers zeroed at each refresh.
        clip_norm: L2 norm each factor's gradient is clipped to.
        ema: beta; the stored U becomes beta U + (1 - beta) U_T.
        damping: lambda; adds lambda v to H v.
        interval: n; steps between refreshes.
        reduction: Of the per-sample curvatures under "ngd": "sum" (authors' code) or "mean".
        likelihood: Predictive distribution for "ngd": "categorical" (softmax over the last axis), "gaussian", or an
            object with the same ``fisher`` method. Never guessed from the loss.

    Raises:
        ValueError: a value out of its range or choices, or a model with nothing to train.
    """

    model: nn.Module

    def __init__(
        self,
        model: nn.Module,
        *,
        divergence: Divergence = "ngd",
        structure: Structure = "diagonal",
        inner_steps: int = 50,
        inner_lr: float = 1e-3,
        inner_momentum: float = 0.9,
        clip_norm: float = 5.0,
        ema: float = 0.95,
        damping: float = 0.0,
        interval: int = 500,
        reduction: Reduction = "sum",
        likelihood: LikelihoodName | Likelihood = "categorical",
    ) -> None:
        super().__init__()
        _require_choice("divergence", divergence, get_args(Divergence))
        _require_choice("structure", structure, get_args(Structure))
        _require_choice("reduction", reduction, get_args(Reduction))
        _require("inner_steps", inner_steps, inner_steps >= 1, ">= 1")
        _require("inner_lr", inner_lr, inner_lr > 0, "> 0")
        _require("inner_momentum", inner_momentum, 0 <= inner_momentum < 1, "in [0, 1)")
        _require("clip_norm", clip_norm, clip_norm > 0, "> 0")
        _require("ema", ema, 0 <= ema < 1, "in [0, 1)")
        _require("damping", damping, damping >= 0, ">= 0")
        _require("interval", interval, interval >= 1, ">= 1")
        self.model = model
        self.divergence, self.structure = divergence, structure
        self.inner_steps, self.ema, self.damping, self.interval = inner_steps, ema, damping, interval
        self.reduction: Reduction = reduction
        self.likelihood = likelihood_of(likelihood)
        self.steps = 0
        self._descent = HeavyBall(inner_lr, inner_momentum, clip_norm)
        self._blocks = _blocks(model, structure)
        self._failures_in_a_row = 0
        self._reported_fallbacks = 0

    def refresh_due(self, step: int) -> bool:
        """Whether U is refreshed before that optimizer step: every ``interval`` steps, first at 0."""
        return step % self.interval == 0

    def refresh_if_due(self, inputs: Any, targets: Any, loss_fn: LossFunction) -> RefreshReport | None:
        """Call once before each optimizer step; refreshes every ``interval`` calls, first at once.

        Arguments and errors are those of ``refresh``. Returns ``None`` where no refresh was due.
        """
        due = self.refresh_due(self.steps)
        self.steps += 1
        return self.refresh(inputs, targets, loss_fn) if due else None

    @torch.no_grad()
    def refresh(self, inputs: Any, targets: Any, loss_fn: LossFunction) -> RefreshReport:
        """Learns U on a minibatch for ``inner_steps`` steps from the stored U, then averages it in (Algorithm 2).

        Args:
            inputs: Network inputs; a tuple is spread over positional arguments, a mapping over keywords.
            targets: Whatever ``loss_fn`` takes.
            loss_fn: ``loss_fn(outputs, targets)``, the mean loss, 0-d.

        Returns:
            The report. A refresh that is not finite keeps the previous U and says so there.

        Raises:
            RefreshError: the third such refresh in a row.
        """
        start = time.perf_counter()
        curvature = self._curvature(inputs, targets, loss_fn)
        g = curvature.gradient
        stacked = [block.gather(g) for block in self._blocks]
        learners = [b.learner(x, self._descent) for b, x in zip(self._blocks, stacked, strict=True)]
        before = torch.zeros(())
        for step in range(self.inner_steps):
            delta = self._delta(learners)
            c = self._costate(curvature, delta)
            if step == 0:
                before = _objective(g, delta, c)
            for block, learner in zip(self._blocks, learners, strict=True):
                learner.descend(block.gather(c))
        learned = [learner.factors() for learner in learners]
        accepted = bool(torch.stack([torch.isfinite(f).all() for fs in learned for f in fs.values()]).all())
        if accepted:
            for block, factors in zip(self._blocks, learned, strict=True):
                block.average(factors, self.ema)
        self._count_failure(accepted)
        return self._report(curvature, before, accepted, start)

    def apply(self, v: Named) -> Named:
        """U v.

        Args:
            v: Parameter name -> tensor shaped like the parameter; any subset of the trainable parameters.

        Returns:
            U v under the same names, in the dtype of v.

        Raises:
            ValueError: a name that U holds no block for.
        """
        transported: Named = {}
        for block in self._blocks:
            transported.update(block.apply_named(v))
        if len(transported) != len(v):
            missing = next(name for name in v if name not in transported)
            raise ValueError(f"LLQR holds no block for parameter {missing}; it was built for another model.")
        return {name: transported[name] for name in v}

    @property
    def storage(self) -> int:
        """Scalars that U stores."""
        return sum(factor.numel() for block in self._blocks for factor in block.factors.values())

    def named_factors(self) -> dict[str, Factors]:
        """Parameter name -> factor name -> factor (views; kernels have a leading axis of parts)."""
        return {name: factors for block in self._blocks for name, factors in block.named_factors().items()}

    def state_dict(self) -> dict[str, Any]:
        """U by parameter name, and the counters."""
        return {
            **super().state_dict(),
            "structure": self.structure,
            "steps": self.steps,
            "failures_in_a_row": self._failures_in_a_row,
            "reported_fallbacks": self._reported_fallbacks,
            "factors": {
                name: {key: f.clone() for key, f in factors.items()} for name, factors in self.named_factors().items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``.

        Raises:
            ValueError: the state is of another structure or model.
        """
        if state["structure"] != self.structure:
            raise ValueError(f"the saved U is {state['structure']}, this one {self.structure}.")
        own = self.named_factors()
        if state["factors"].keys() != own.keys():
            differing = sorted(state["factors"].keys() ^ own.keys())
            raise ValueError(f"the saved U is of another model: {', '.join(differing[:3])} in only one of them.")
        super().load_state_dict(state)
        for name, factors in own.items():
            for key, factor in factors.items():
                factor.copy_(state["factors"][name][key])
        self.steps = state["steps"]
        self._failures_in_a_row = state["failures_in_a_row"]
        self._reported_fallbacks = state["reported_fallbacks"]

    def _curvature(self, inputs: Any, targets: Any, loss_fn: LossFunction) -> Curvature:
        if self.divergence == "newton":
            return HessianCurvature(self.model, inputs, targets, loss_fn)
        return FisherCurvature(self.model, inputs, targets, loss_fn, self.likelihood, self.reduction)

    def _delta(self, appliers: list[Learner]) -> Named:
        """delta = -U g."""
        delta: Named = {}
        for block, applier in zip(self._blocks, appliers, strict=True):
            delta.update(block.scatter(-applier.apply()))
        return delta

    def _costate(self, curvature: Curvature, delta: Named) -> Named:
        """c = g + (H + lambda I) delta, the gradient of J in delta."""
        g = curvature.gradient
        h_delta = curvature.product(delta)
        c = torch._foreach_add([g[name] for name in h_delta], list(h_delta.values()))
        if self.damping:
            torch._foreach_add_(c, [delta[name] for name in h_delta], alpha=self.damping)
        return dict(zip(h_delta, c, strict=True))

    def _count_failure(self, accepted: bool) -> None:
        self._failures_in_a_row = 0 if accepted else self._failures_in_a_row + 1
        if self._failures_in_a_row == PATIENCE:
            raise RefreshError(
                f"{PATIENCE} refreshes of U in a row were not finite ({self.divergence}, {self.structure}); lower "
                "inner_lr or the learning rate, or set damping > 0."
            )

    def _report(self, curvature: Curvature, before: Tensor, accepted: bool, start: float) -> RefreshReport:
        g = curvature.gradient
        ug = self.apply(g)
        delta = dict(zip(ug, torch._foreach_neg(list(ug.values())), strict=True))
        after = _objective(g, delta, self._costate(curvature, delta))
        change = {name: ug[name] - g[name] for name in g}
        size = dot(g, g).sqrt()
        fallbacks, self._reported_fallbacks = self.fallbacks - self._reported_fallbacks, self.fallbacks
        return RefreshReport(
            objective_before=float(before),
            objective_after=float(after),
            relative_change=float(dot(change, change).sqrt() / size) if size > 0 else 0.0,
            fallbacks=fallbacks,
            accepted=accepted,
            seconds=time.perf_counter() - start,
        )


def _objective(g: Named, delta: Named, c: Named) -> Tensor:
    """J = g' delta + 1/2 delta' H delta = 1/2 (g + c)' delta, since c = g + H delta."""
    return 0.5 * (dot(delta, g) + dot(delta, c))


def _blocks(model: nn.Module, structure: Structure) -> list[Block]:
    """U's blocks: kernels of one shape together, vectors (under "diagonal" everything) in one flat block."""
    kernels, vectors = layout(model)
    if not kernels and not vectors:
        raise ValueError("LLQR needs a model with at least one parameter that requires a gradient.")
    first = next(p for p in model.parameters() if p.requires_grad)
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    if structure == "diagonal":
        order = {name: i for i, (name, _) in enumerate(model.named_parameters())}
        kernel_vectors = [Vector(k.name, k.shape, k.name.rpartition(".")[0]) for k in kernels]
        flat = sorted([*kernel_vectors, *vectors], key=lambda vector: order[vector.name])
        return [Diagonal(flat, joint=True, dtype=dtype, device=first.device)]
    by_shape: defaultdict[tuple[int, int], list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        by_shape[kernel.n, kernel.m].append(kernel)
    build = KERNEL_BLOCKS[structure]
    blocks: list[Block] = [build(same, dtype=dtype, device=first.device) for same in by_shape.values()]
    if vectors:
        blocks.append(Diagonal(vectors, joint=False, dtype=dtype, device=first.device))
    return blocks


def _require(name: str, value: float, holds: bool, rule: str) -> None:
    if not (holds and math.isfinite(value)):
        raise ValueError(f"{name}={value} must be {rule}.")


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value} is not known. Choose from: {', '.join(choices)}.")
