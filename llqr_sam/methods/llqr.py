"""LLQR: the learned inverse metric U (arXiv 2605.04230; the paper's appendix A).

With g and H the gradient and curvature of a preconditioner minibatch and delta = -U g,

    J(U) = g' delta + 1/2 delta' H delta        (paper, eq. 9, with the layerwise dynamics eliminated)
    c = g + H delta,   dJ/dU = -(d(U g)/dU)' c

so each inner step needs one curvature product and the closed-form pull-back of blocks.py, whatever the network.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llqr_sam.methods.blocks.assembly import Structure, assemble
from llqr_sam.methods.blocks.block import Factors, Learner
from llqr_sam.methods.blocks.descent import HeavyBall
from llqr_sam.methods.blocks.parameters import Parameters
from llqr_sam.methods.curvature.agreement import Compared
from llqr_sam.methods.curvature.divergence import DivergenceCurvature
from llqr_sam.methods.curvature.inference import ordinary_tensors
from llqr_sam.methods.curvature.likelihoods import Likelihood, LikelihoodName, likelihood_of
from llqr_sam.methods.curvature.point import LossFunction
from llqr_sam.methods.curvature.precision import CurvatureDtype, precision_of
from llqr_sam.methods.curvature.products import Curvature, Divergence, Reduction
from llqr_sam.methods.distributed import Ranks, ranks_of, unwrapped
from llqr_sam.methods.metrics import Metric
from llqr_sam.methods.named import Named, dot

P = ParamSpec("P")
R = TypeVar("R")

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
        unreplayed: Why products with the curvature did not come from a replayed trace of the network, which costs about
            half as much; empty where they did.
    """

    objective_before: float
    objective_after: float
    relative_change: float
    fallbacks: int
    accepted: bool
    seconds: float
    unreplayed: str = ""


def _in_own_dtypes(method: Callable[Concatenate[LLQR, P], R]) -> Callable[Concatenate[LLQR, P], R]:
    """U learns and is applied in its own dtypes: the caller's autocast would round every matrix product."""

    @functools.wraps(method)
    def shielded(self: LLQR, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self._parameters.require_values()
        with ordinary_tensors(), torch.autocast(self._parameters.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return shielded


class LLQR(Metric):
    """The learned inverse metric U of a network, a probe and a transport for ``SharpnessAware``.

    Args:
        model: Any ``nn.Module`` that returns one tensor of outputs; ``DistributedDataParallel``, ``DataParallel`` and
            ``torch.compile`` are looked through.
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
        likelihood: Predictive distribution for "ngd": "categorical" (softmax over the last axis; another axis, and
            what is padding, are given by ``Categorical``), "bernoulli" (yes-or-no logits), "gaussian", or an object
            with the same ``fisher`` method. Never guessed from the loss, but compared with it.
        chunk_size: Samples that a refresh linearises at a time, which bounds its memory and about doubles its time; the
            loss must then be a weighted mean over samples or tokens. Default: the whole minibatch.
        apply_dtype: Of the matrix products in U v, such as ``torch.bfloat16``; U learns in float32 all the same.
        curvature_dtype: Of the network in a refresh, so of H v and g: ``torch.bfloat16`` calls it under autocast,
            "tf32" allows TF32's rounding on a GPU, ``None`` is float32 whole. U and J are float32 all the same.
        process_group: Ranks whose minibatches, of equal sizes, together make each refresh; U is bitwise equal on all.
            Default: those of a ``DistributedDataParallel`` model, else this process alone.
        shard: Spread U's blocks over the ranks (the paper's S), instead of a copy on each. Every rank must then ask
            for U v of the same v, and for the ``state_dict``, at the same time; that has the whole U on the first
            rank. ``storage`` and ``named_factors`` are each rank's own share's.

    Raises:
        ValueError: a value out of its range or choices, or a model with nothing to train or with parameters that are
            not dense, real and initialised.

    Warns:
        UserWarning: once, of the weights that are no matrix, which U is diagonal on under every structure.
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
        chunk_size: int | None = None,
        apply_dtype: torch.dtype | None = None,
        curvature_dtype: CurvatureDtype = None,
        process_group: dist.ProcessGroup | None = None,
        shard: bool = False,
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
        if chunk_size is not None:
            _require("chunk_size", chunk_size, chunk_size >= 1, ">= 1")
        self.model, self.sharded = unwrapped(model), shard
        self.divergence, self.structure = divergence, structure
        self.inner_steps, self.ema, self.damping, self.interval = inner_steps, ema, damping, interval
        self.reduction = reduction
        self.likelihood, self.chunk_size = likelihood_of(likelihood), chunk_size
        self._compared = Compared(self.likelihood)
        self.steps = self._failures_in_a_row = self._reported_fallbacks = 0
        self._descent = HeavyBall(inner_lr, inner_momentum, clip_norm)
        self._ranks = ranks_of(model, process_group)
        self._shards, self._replicas = (self._ranks, Ranks()) if shard else (Ranks(), self._ranks)
        with ordinary_tensors():
            self._blocks = assemble(self.model, structure, self._shards, apply_dtype)
        self._parameters = Parameters(self.model)
        self._precision = precision_of(curvature_dtype, self._parameters.dtype)
        self._curvature = self._curvature_of_model()

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

    @_in_own_dtypes
    @torch.no_grad()
    def refresh(self, inputs: Any, targets: Any, loss_fn: LossFunction) -> RefreshReport:
        """Learns U on a minibatch for ``inner_steps`` steps from the stored U, then averages it in (Algorithm 2).

        Args:
            inputs: Network inputs; a tuple is spread over positional arguments, a mapping over keywords.
            targets: Whatever ``loss_fn`` takes.
            loss_fn: ``loss_fn(outputs, targets)``, the mean loss, 0-d.

        Returns:
            The report. A refresh that is not finite keeps the previous U and says so there.

        Warns:
            UserWarning: once, where under "ngd" the likelihood cannot be the loss's or counts other positions.

        Raises:
            RefreshError: the third such refresh in a row.
            ValueError: a parameter was frozen, unfrozen, reshaped or moved since U was built, there are no samples, or
                chunks of this minibatch do not add up to the whole.
        """
        if self._parameters.device.type == "cuda":
            torch.cuda.synchronize(self._parameters.device)  # what is still queued is no part of the refresh
        start = time.perf_counter()
        self._parameters.require_unchanged()
        with self._compared.against(loss_fn):
            own = self._curvature.at(inputs, targets, loss_fn)
        self._compared.warn_once(stacklevel=4)  # of whoever called refresh, past its decorators
        if not own.gradient:
            raise ValueError("the preconditioner minibatch is empty.")
        curvature = self._ranks.pooled(own, summed=self._curvature.summed)
        g = curvature.gradient = self._parameters.laid_out(curvature.gradient, self._replicas)
        learners = [block.learner(g, self._descent) for block in self._blocks]
        before = torch.zeros(())
        for step in range(self.inner_steps):
            delta = self._delta(learners, g)
            c = self._costate(curvature, delta)
            if step == 0:
                before = _objective(g, delta, c)
            del delta  # as large as the network
            for learner in learners:
                learner.descend(c)
        learned = [learner.factors() for learner in learners]
        finite = torch.stack([torch.isfinite(f).all() for fs in learned for f in fs.values()]).all()
        accepted = self._ranks.agree(finite)
        if accepted:
            for block, factors in zip(self._blocks, learned, strict=True):
                block.average(factors, self.ema)
            self._replicas.keep_first_(factor for block in self._blocks for factor in block.factors.values())
        self._count_failure(accepted)
        del learners, learned
        return self._report(curvature, before, accepted, start)

    @_in_own_dtypes
    def apply(self, v: Named) -> Named:
        """U v.

        Args:
            v: Parameter name -> tensor shaped like the parameter; any subset of the trainable parameters.

        Returns:
            U v under the same names, in the dtype of v.

        Raises:
            ValueError: a name or shape that U holds no block for, or a model that was moved since U was built.
        """
        self._parameters.require_known(v)
        transported: Named = {}
        for block in self._blocks:
            transported.update(block.apply(v))
        transported = self._shards.complete(transported, v)
        return {name: transported[name] for name in v}

    @_in_own_dtypes
    def apply_(self, v: Named) -> None:
        """Overwrites v with U v; arguments and errors are those of ``apply``."""
        if self.sharded:
            return super().apply_(v)
        self._parameters.require_known(v)
        for block in self._blocks:
            block.apply_(v)

    @property
    def storage(self) -> int:
        """Scalars of U that this process stores."""
        return sum(factor.numel() for block in self._blocks for factor in block.factors.values())

    def named_factors(self) -> dict[str, Factors]:
        """Parameter name -> factor name -> factor (views; kernels have a leading axis of parts)."""
        return {name: factors for block in self._blocks for name, factors in block.named_factors().items()}

    def state_dict(self) -> dict[str, Any]:
        """U by parameter name, and the counters; of a sharded U the first rank has the whole, on the CPU."""
        own = {name: {key: f.clone() for key, f in factors.items()} for name, factors in self.named_factors().items()}
        if self.sharded:
            own = {name: {key: f.cpu() for key, f in factors.items()} for name, factors in own.items()}
        return {
            **super().state_dict(),
            "structure": self.structure,
            "divergence": self.divergence,
            "steps": self.steps,
            "failures_in_a_row": self._failures_in_a_row,
            "reported_fallbacks": self._reported_fallbacks,
            "factors": self._shards.gathered(own),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``; a sharded U takes its share of the whole U or of any merged ``factors``.

        Raises:
            ValueError: the state is of another structure, divergence, model or share; nothing is then loaded.
        """
        if state["structure"] != self.structure:
            raise ValueError(f"the saved U is {state['structure']}, this one {self.structure}.")
        if state.get("divergence", self.divergence) != self.divergence:  # older states do not say
            raise ValueError(f"the saved U was learned under {state['divergence']}, this one under {self.divergence}.")
        own = self.named_factors()
        saved = state["factors"].keys()
        differing = sorted((own.keys() - saved) | (saved - self._parameters.names))
        if differing:
            kind = "another share of this model" if saved <= self._parameters.names else "another model"
            raise ValueError(f"the saved U is of {kind}: {', '.join(differing[:3])} in only one of them.")
        for name, factors in own.items():
            present, theirs = _sizes(factors), _sizes(state["factors"][name])
            if present != theirs:
                raise ValueError(f"the saved U has {theirs} for {name}, this one {present}: it is of another model.")
        super().load_state_dict(state)
        for name, factors in own.items():
            for key, factor in factors.items():
                factor.copy_(state["factors"][name][key])
        self.steps = state["steps"]
        self._failures_in_a_row = state["failures_in_a_row"]
        self._reported_fallbacks = state["reported_fallbacks"]

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: everything but the trace of the network, which the next refresh makes again."""
        if self._ranks.group is not None:
            raise TypeError("an LLQR of several processes cannot be copied or pickled; save its state_dict.")
        return {name: value for name, value in vars(self).items() if name != "_curvature"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._curvature = self._curvature_of_model()

    def _curvature_of_model(self) -> DivergenceCurvature:
        return DivergenceCurvature(
            self.model, self.divergence, self.reduction, self._compared, self.chunk_size, self._precision
        )

    def _delta(self, learners: list[Learner], g: Named) -> Named:
        """delta = -U g."""
        delta: Named = {}
        for learner in learners:
            delta.update(learner.apply())
        torch._foreach_neg_(list(delta.values()))
        return self._shards.complete(delta, g)

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
        del ug
        after = _objective(g, delta, self._costate(curvature, delta))
        torch._foreach_add_(list(delta.values()), [g[name] for name in delta])  # g - U g
        change, size = dot(delta, delta).sqrt(), dot(g, g).sqrt()
        fallbacks, self._reported_fallbacks = self.fallbacks - self._reported_fallbacks, self.fallbacks
        return RefreshReport(
            objective_before=float(before),
            objective_after=float(after),
            relative_change=float(change / size) if size > 0 else 0.0,
            fallbacks=fallbacks,
            accepted=accepted,
            seconds=time.perf_counter() - start,
            unreplayed=self._curvature.refusal,
        )


def _sizes(factors: Factors) -> dict[str, tuple[int, ...]]:
    return {key: tuple(factor.shape) for key, factor in factors.items()}


def _objective(g: Named, delta: Named, c: Named) -> Tensor:
    """J = g' delta + 1/2 delta' H delta = 1/2 (g + c)' delta, since c = g + H delta."""
    return 0.5 * (dot(delta, g) + dot(delta, c))


def _require(name: str, value: float, holds: bool, rule: str) -> None:
    if not (holds and math.isfinite(value)):
        raise ValueError(f"{name}={value} must be {rule}.")


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value} is not known. Choose from: {', '.join(choices)}.")
