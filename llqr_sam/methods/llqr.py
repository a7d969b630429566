"""LLQR: the learned inverse metric U (arXiv 2605.04230; the paper's appendix A).

With g and H the gradient and curvature of a preconditioner minibatch and delta = -U g,

    J(U) = g' delta + 1/2 delta' H delta        (paper, eq. 9, with the layerwise dynamics eliminated)
    c = g + H delta,   dJ/dU = -(d(U g)/dU)' c

so each inner step needs one curvature product and the closed-form pull-back of the blocks, whatever the network.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llqr_sam.methods.blocks.assembly import Parameters, Structure, assemble
from llqr_sam.methods.blocks.block import Factors, HeavyBall
from llqr_sam.methods.curvature.divergence import DivergenceCurvature
from llqr_sam.methods.curvature.inference import ordinary_tensors
from llqr_sam.methods.curvature.likelihoods import Likelihood, LikelihoodName, likelihood_of
from llqr_sam.methods.curvature.point import CurvatureDtype, LossFunction, precision_of
from llqr_sam.methods.curvature.products import Curvature, Divergence, Reduction
from llqr_sam.methods.distributed import Ranks, ranks_of, require_group, unwrapped
from llqr_sam.methods.metrics import Metric
from llqr_sam.methods.named import Named, dot
from llqr_sam.methods.settings import LearningSettings, require

MAX_FAILURES = 3  # in a row: the third refresh that is not finite stops the run


class RefreshError(RuntimeError):
    """Three refreshes of U in a row were not finite; training should stop."""


@dataclass(frozen=True)
class RefreshReport:
    """What one refresh did.

    Args:
        objective_before: J at the stored U before the refresh (paper, eq. 9).
        objective_after: J at the stored U after averaging, on the same minibatch.
        relative_change: |U g - g| / |g| after averaging: whether U does anything.
        fallbacks: Perturbations since the last refresh that fell back to the Euclidean norm.
        accepted: Whether the refresh was finite; if not, U was kept as it was.
        seconds: Wall time in seconds.
        unreplayed: Why products with the curvature did not replay a trace of the network, which takes about half the
            time; empty where they did.
    """

    objective_before: float
    objective_after: float
    relative_change: float
    fallbacks: int
    accepted: bool
    seconds: float
    unreplayed: str = ""


class LLQR(Metric):
    """The learned inverse metric U of a network, a probe and a transport for ``SharpnessAware``.

    U is learned on a minibatch every ``interval`` steps (LLQR paper, arXiv 2605.04230, Algorithm 2).

    Args:
        model: Any ``nn.Module`` that returns one tensor of outputs; parallel and compiled wrappers are looked through.
        divergence: "ngd" (Fisher matrix of the predictive distribution) or "newton" (Hessian of the loss).
        structure: Blocks of U: "diagonal", "kfac", "ekfac", "diag_kfac", or "dense" for toys.
        inner_steps: Steps of gradient descent in a refresh, T, >= 1.
        inner_lr: Learning rate of these steps, alpha, > 0.
        inner_momentum: Momentum of these steps, in [0, 1); it starts at zero in each refresh.
        clip_norm: L2 norm to which each factor's gradient is clipped, > 0.
        ema: beta, in [0, 1); a refresh that reached U_T stores beta U + (1 - beta) U_T.
        damping: lambda, >= 0; added to H as lambda I.
        interval: Optimizer steps between two refreshes, n, >= 1.
        reduction: How curvatures of samples combine under "ngd": "sum" (authors' code) or "mean".
        likelihood: Predictive distribution for "ngd", compared with the loss: "categorical" (softmax over the last
            axis), "bernoulli" (yes-or-no logits), "gaussian", or an object such as ``Categorical(axis=1)``.
        chunk_size: Samples that a refresh linearises at a time, >= 1. It bounds the memory and about doubles the time;
            the loss must then be a weighted mean over samples or tokens. Default: the whole minibatch.
        apply_dtype: dtype of the matrix products in U v, such as ``torch.bfloat16``; U always learns in float32.
        curvature_dtype: Precision of the network in a refresh, and so of H v and g: ``torch.bfloat16`` calls it under
            autocast, "tf32" allows TF32 on a GPU, ``None`` is float32. U and J are always float32.
        process_group: Ranks whose minibatches, of equal sizes, together make each refresh; U is bitwise equal on all.
            Default: those of a ``DistributedDataParallel`` model, else this process alone. "none": alone among others.
        shard: Whether the blocks of U are spread over the ranks (the paper's S) instead of copied to each. All ranks
            must then call ``apply`` with the same v, and ``state_dict``, at the same time.

    Raises:
        ValueError: a value is out of its range or choices, the trainable parameters are none, not dense, not real,
            not initialised, not on one device or spread over ranks, or several processes run and no group is given.

    Warns:
        UserWarning: once, naming the weights that are no matrix: U is diagonal on them under every structure.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> model, loss_fn = torch.nn.Linear(4, 3), torch.nn.CrossEntropyLoss()
        >>> metric = LLQR(model, inner_steps=5)
        >>> report = metric.refresh(torch.randn(8, 4), torch.randint(3, (8,)), loss_fn)
        >>> report.accepted, report.objective_after < report.objective_before
        (True, True)
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
        process_group: dist.ProcessGroup | Literal["none"] | None = None,
        shard: bool = False,
    ) -> None:
        LearningSettings(
            divergence, structure, inner_steps, inner_lr, inner_momentum, clip_norm, ema, damping, interval, reduction
        )
        require(chunk_size is None or chunk_size >= 1, "chunk_size", chunk_size, "must be >= 1")
        self.model, self.sharded = unwrapped(model), shard
        self.divergence, self.structure, self.reduction = divergence, structure, reduction
        self.inner_steps, self.ema, self.damping, self.interval = inner_steps, ema, damping, interval
        self.likelihood, self.chunk_size = likelihood_of(likelihood), chunk_size
        self.steps = self._failures_in_a_row = self._reported_fallbacks = 0
        self._descent = HeavyBall(inner_lr, inner_momentum, clip_norm)
        self._ranks, self._process_group = ranks_of(model, process_group), process_group
        require_group(self._ranks, process_group)
        self._shards, self._replicas = (self._ranks, Ranks()) if shard else (Ranks(), self._ranks)
        self._parameters = Parameters(self.model)
        with ordinary_tensors():
            self._blocks = assemble(self._parameters, structure, self._shards, apply_dtype)
        self._precision = precision_of(curvature_dtype, self._parameters.dtype)

    def refresh_due(self, step: int) -> bool:
        """Returns whether ``refresh`` is due before an optimizer step: every ``interval`` steps.

        Args:
            step: Number of the step, from 0.
        """
        return step % self.interval == 0

    def refresh_if_due(self, inputs: Any, targets: Any, loss_fn: LossFunction) -> RefreshReport | None:
        """Refreshes U every ``interval`` calls, the first time at once. Call it before each optimizer step.

        Args:
            inputs, targets, loss_fn: As for ``refresh``, which may raise too.

        Returns:
            The report, or ``None`` where no refresh was due.
        """
        due = self.refresh_due(self.steps)
        self.steps += 1
        return self.refresh(inputs, targets, loss_fn) if due else None

    @torch.no_grad()
    def refresh(self, inputs: Any, targets: Any, loss_fn: LossFunction) -> RefreshReport:
        """Learns U on a minibatch, from the stored U, and averages the result in (LLQR paper, Algorithm 2).

        Args:
            inputs: Network inputs; a tuple becomes positional arguments, a mapping keyword arguments.
            targets: What ``loss_fn`` takes.
            loss_fn: ``loss_fn(outputs, targets)``, the mean loss, 0-d.

        Returns:
            The report. A refresh that is not finite keeps the previous U, and ``accepted`` is false.

        Raises:
            RefreshError: three refreshes in a row were not finite.
            ValueError: a parameter was frozen, unfrozen, reshaped or moved since U was built, there are no samples, or
                the chunks of this minibatch do not add up to the whole.

        Warns:
            UserWarning: once, where under "ngd" the likelihood does not fit the loss.
        """
        require_group(self._ranks, self._process_group)  # the processes may have been joined since
        with self._own_dtypes():
            if self._parameters.device.type == "cuda":
                torch.cuda.synchronize(self._parameters.device)  # what is still queued is no part of the refresh
            start = time.perf_counter()
            self._parameters.require_unchanged()
            curvature = self._curvature.at(inputs, targets, loss_fn)
            if not curvature.gradient:
                raise ValueError("the preconditioner minibatch is empty.")
            curvature.gradient = self._ranks.summed(curvature.gradient, 1.0 / self._ranks.size)
            g = curvature.gradient = self._parameters.laid_out(curvature.gradient, self._replicas)
            learners = [block.learner(g, self._descent) for block in self._blocks]
            before = torch.zeros(())
            for step in range(self.inner_steps):
                delta = self._joined((learner.apply() for learner in learners), g)
                torch._foreach_neg_(list(delta.values()))
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
            self._failures_in_a_row = 0 if accepted else self._failures_in_a_row + 1
            if self._failures_in_a_row == MAX_FAILURES:
                raise RefreshError(
                    f"{MAX_FAILURES} refreshes of U in a row were not finite ({self.divergence}, {self.structure}); "
                    "lower inner_lr or the learning rate, or set damping > 0."
                )
            del learners, learned
            return self._report(curvature, before, accepted, start)

    def apply(self, v: Named) -> Named:
        with self._own_dtypes():
            self._parameters.require_known(v)
            transported = self._joined((block.apply(v) for block in self._blocks), v)
            return {name: transported[name] for name in v}

    def apply_(self, v: Named) -> None:
        if self.sharded:
            return super().apply_(v)
        with self._own_dtypes():
            self._parameters.require_known(v)
            for block in self._blocks:
                block.apply_(v)

    @property
    def storage(self) -> int:
        """Returns the number of scalars of U that this process stores; of its own share where U is sharded."""
        return sum(factor.numel() for block in self._blocks for factor in block.factors.values())

    def named_factors(self) -> dict[str, Factors]:
        """Returns the factors of U that this process stores.

        Returns:
            Parameter name -> factor name -> tensor, a view. A fused kernel has a leading axis, one entry a slice.
        """
        return {name: factors for block in self._blocks for name, factors in block.named_factors().items()}

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of U's factors by parameter name, and the counters.

        Of a sharded U the first rank has the whole, on the CPU, and every other rank its own share.
        """
        device = torch.device("cpu") if self.sharded else self._parameters.device
        own = {
            name: {key: f.to(device, copy=True) for key, f in factors.items()}
            for name, factors in self.named_factors().items()
        }
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
        """Restores a state; a sharded U takes its share of the whole.

        Args:
            state: What ``state_dict`` returned, on the first rank where U is sharded.

        Raises:
            ValueError: the state is of another structure, divergence, model or share; nothing is then loaded.
        """
        for key, present in (("structure", self.structure), ("divergence", self.divergence)):
            if state[key] != present:
                raise ValueError(f"the saved U has {key}={state[key]}, this one {key}={present}.")
        factors, saved = self.named_factors(), state["factors"]
        strangers = saved.keys() - self._parameters.shapes.keys()
        for name in sorted(factors.keys() | strangers):
            sizes, theirs = _sizes(factors.get(name, {})), _sizes(saved.get(name, {}))
            if sizes != theirs:
                kind = "another model" if theirs or strangers else "another share of this model"
                raise ValueError(f"the saved U has {theirs} for {name}, this one {sizes}: it is of {kind}.")
        super().load_state_dict(state)
        for name, own in factors.items():
            for key, factor in own.items():
                factor.copy_(saved[name][key])
        self.steps = state["steps"]
        self._failures_in_a_row = state["failures_in_a_row"]
        self._reported_fallbacks = state["reported_fallbacks"]

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for copies and pickles, without the trace of the network: the next refresh makes one."""
        if self._ranks.group is not None:
            raise TypeError("an LLQR of several processes cannot be copied or pickled; save its state_dict.")
        return {name: value for name, value in vars(self).items() if name != "_curvature"}

    @functools.cached_property
    def _curvature(self) -> DivergenceCurvature:
        return DivergenceCurvature(
            self.model, self.divergence, self.reduction, self.likelihood, self.chunk_size, self._precision
        )

    @contextlib.contextmanager
    def _own_dtypes(self) -> Iterator[None]:
        """Leaves inference mode and the caller's autocast, which would round every matrix product."""
        with ordinary_tensors(), torch.autocast(self._parameters.device.type, enabled=False):
            yield

    def _joined(self, parts: Iterable[Named], like: Named) -> Named:
        """Returns the parts of a vector as one; where U is sharded, with those of the other ranks."""
        return self._shards.complete({name: x for part in parts for name, x in part.items()}, like)

    def _costate(self, curvature: Curvature, delta: Named) -> Named:
        """Returns c = g + (H + lambda I) delta, the gradient of J with respect to delta."""
        g, scale = curvature.gradient, 1.0 if self._curvature.matrix.summed else 1.0 / self._ranks.size
        h_delta = self._ranks.summed(curvature.product(delta), scale)
        c = torch._foreach_add([g[name] for name in h_delta], list(h_delta.values()))
        if self.damping:
            torch._foreach_add_(c, [delta[name] for name in h_delta], alpha=self.damping)
        return dict(zip(h_delta, c, strict=True))

    def _report(self, curvature: Curvature, before: Tensor, accepted: bool, start: float) -> RefreshReport:
        g = curvature.gradient
        delta = self.apply(g)
        torch._foreach_neg_(list(delta.values()))
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
    """Returns J = g' delta + 1/2 delta' H delta = 1/2 (g + c)' delta, since c = g + H delta."""
    return 0.5 * (dot(delta, g) + dot(delta, c))
