"""From the name of each part to an optimizer: the methods of docs/methods.md, section 1, as data.

conf/optim/*.yaml composes the names; a new method is a new file there, not a new class here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

import torch.distributed as dist
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.methods.curvature.likelihoods import LikelihoodName
from llqr_sam.methods.curvature.precision import CurvatureDtype
from llqr_sam.methods.curvature.products import Divergence, Reduction
from llqr_sam.methods.directions import Direction, Friendly, VarianceSuppressed
from llqr_sam.methods.llqr import LLQR
from llqr_sam.methods.metrics import NORMS, Adaptive, FisherDiagonal, GradientNoise, Metric
from llqr_sam.methods.sharpness_aware import BATCH_NORM_PASSES, SharpnessAware

BASES = ("sgd", "adam", "adamw")
DIRECTIONS = ("gradient", "friendly", "variance_suppressed")
PROBES = ("identity", "fisher", "adaptive", "noise", "llqr")
TRANSPORTS = ("identity", "llqr")
DIVERGENCES: tuple[str, ...] = get_args(Divergence)
STRUCTURES: tuple[str, ...] = get_args(Structure)

# Which fields each part reads, beside those every method has.
FIELDS_OF_BASE = {"sgd": ("momentum",), "adam": ("betas",), "adamw": ("betas",)}
FIELDS_OF_PROBE = {
    "identity": (),
    "fisher": ("fisher_eta", "fisher_form"),
    "adaptive": ("asam_eta",),
    "noise": ("noise_decay", "noise_delta"),
    "llqr": (),
}
FIELDS_OF_DIRECTION = {
    "gradient": (),
    "friendly": ("friendly_sigma", "friendly_decay"),
    "variance_suppressed": ("vasso_theta",),
}
FIELDS_OF_PERTURBATION = ("rho", "norm", "start_step", "batch_norm", "direction")
FIELDS_OF_LLQR = (
    "divergence", "structure", "inner_steps", "inner_lr", "inner_momentum", "clip_norm", "ema", "damping", "interval",
    "reduction", "likelihood", "refresh_batch",
)  # fmt: skip


@dataclass
class MethodSpec:
    """One method: base optimizer, direction, probe metric and transport, with the numbers each needs.

    A field that the chosen parts have no use for is ``None``; ``validate`` refuses one that is set in vain.
    """

    name: str
    # base optimizer
    base: str  # sgd | adam | adamw
    lr: float
    weight_decay: float
    momentum: float | None = None  # sgd
    betas: list[float] | None = None  # adam, adamw
    # perturbation: eps = rho M v / norm(v), v = direction(g)
    probe: str | None = None  # identity | fisher | adaptive | noise | llqr; None: no probe
    rho: float | None = None
    norm: str | None = None  # metric (paper, eq. 1) | euclidean (authors' code)
    start_step: int | None = None  # first step that probes
    batch_norm: str | None = None  # perturbed | clean: the pass that updates running statistics
    direction: str | None = None  # gradient | friendly | variance_suppressed
    friendly_sigma: float | None = None
    friendly_decay: float | None = None  # lambda of F-SAM
    vasso_theta: float | None = None
    fisher_eta: float | None = None
    fisher_form: str | None = None  # authors | kim
    asam_eta: float | None = None
    noise_decay: float | None = None
    noise_delta: float | None = None
    # transport: update = base(T g~)
    transport: str = "identity"  # identity | llqr
    # the learned metric U, where probe or transport is llqr
    divergence: str | None = None  # ngd | newton
    structure: str | None = None  # diagonal | kfac | ekfac | diag_kfac | dense
    inner_steps: int | None = None  # T of Algorithm 2
    inner_lr: float | None = None
    inner_momentum: float | None = None
    clip_norm: float | None = None
    ema: float | None = None  # beta
    damping: float | None = None
    interval: int | None = None
    reduction: str | None = None  # sum | mean, of the per-sample curvatures (ngd)
    likelihood: str | None = None  # categorical | gaussian | bernoulli
    refresh_batch: int | None = None  # samples of the preconditioner minibatch

    @property
    def uses_llqr(self) -> bool:
        """Whether this method learns a metric U."""
        return "llqr" in (self.probe, self.transport)

    def fields_in_use(self) -> set[str]:
        """Names of the fields that the chosen parts read."""
        used = {"name", "base", "lr", "weight_decay", "probe", "transport", *FIELDS_OF_BASE[self.base]}
        if self.probe is not None:
            used.update(FIELDS_OF_PERTURBATION, FIELDS_OF_PROBE[self.probe])
            used.update(FIELDS_OF_DIRECTION[self.direction or "gradient"])
        if self.uses_llqr:
            used.update(FIELDS_OF_LLQR)
        return used

    def validate(self) -> None:
        """Checks every value.

        Raises:
            ValueError: one sentence naming the key (``optim.<field>``), the value and what would be right.
        """
        for field, choices in _CHOICES.items():
            value = getattr(self, field)
            if value is not None and value not in choices:
                raise ValueError(f"optim.{field}={value} is not known. Choose from: {', '.join(choices)}.")
        used = self.fields_in_use()
        for field, value in vars(self).items():
            if value is not None and field not in used:
                raise ValueError(f"optim.{field}={value} has no meaning for optim={self.name}, which does not use it.")
            if value is None and field in used - {"probe"}:
                raise ValueError(f"optim.{field} is missing, and optim={self.name} needs it.")
        for field, (rule, holds) in _RANGES.items():
            value = getattr(self, field)
            if value is not None and not (math.isfinite(value) and holds(value)):
                raise ValueError(f"optim.{field}={value} must be {rule}.")
        if self.betas is not None and not (len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)):
            raise ValueError(f"optim.betas={self.betas} must be two numbers in [0, 1).")


@dataclass(frozen=True)
class Method:
    """An optimizer and, where the method learns one, the metric that the training loop must refresh."""

    optimizer: Optimizer
    metric: LLQR | None


def build(
    spec: MethodSpec,
    model: nn.Module,
    *,
    process_group: dist.ProcessGroup | None = None,
    shard: bool = False,
    fused: bool | None = None,
    curvature_dtype: CurvatureDtype = None,
) -> Method:
    """The method's optimizer over the model's trainable parameters.

    Args:
        spec: The method.
        model: The network.
        process_group: Ranks that learn one metric U together.
        shard: Spread U over them.
        fused: Whether the base optimizer is one kernel; ``None``: PyTorch's choice for the device.
        curvature_dtype: Of the network when U is refreshed, as ``LLQR`` takes it; without a U it changes nothing.

    Raises:
        ValueError: the specification does not validate, or ``LLQR`` knows no such ``curvature_dtype``.
    """
    spec.validate()
    base = _base(spec, model, fused)
    if spec.probe is None and not spec.uses_llqr:
        return Method(base, None)
    given = {"process_group": process_group, "shard": shard, "curvature_dtype": curvature_dtype}
    metric = _metric(spec, model, given) if spec.uses_llqr else None
    transport = metric if spec.transport == "llqr" else None
    if spec.probe is None:
        return Method(SharpnessAware(base, rho=0.0, transport=transport, model=model), metric)
    optimizer = SharpnessAware(
        base,
        probe=metric if spec.probe == "llqr" else _probe(spec, model),
        direction=_direction(spec),
        transport=transport,
        model=model,
        **_given(spec, "rho", "norm", "start_step", "batch_norm"),
    )
    return Method(optimizer, metric)


def _base(spec: MethodSpec, model: nn.Module, fused: bool | None) -> Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if spec.base == "sgd":
        assert spec.momentum is not None
        return SGD(parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=fused)
    assert spec.betas is not None
    kind = Adam if spec.base == "adam" else AdamW
    betas = spec.betas[0], spec.betas[1]
    return kind(parameters, lr=spec.lr, betas=betas, weight_decay=spec.weight_decay, fused=fused)


def _metric(spec: MethodSpec, model: nn.Module, given: dict[str, Any]) -> LLQR:
    specified = _given(spec, *(field for field in FIELDS_OF_LLQR if field != "refresh_batch"))
    return LLQR(model, **specified, **given)


def _probe(spec: MethodSpec, model: nn.Module) -> Metric:
    if spec.probe == "fisher":
        return FisherDiagonal(**_given(spec, eta="fisher_eta", form="fisher_form"))
    if spec.probe == "adaptive":
        return Adaptive(model, **_given(spec, eta="asam_eta"))
    if spec.probe == "noise":
        return GradientNoise(**_given(spec, decay="noise_decay", delta="noise_delta"))
    return Metric()


def _direction(spec: MethodSpec) -> Direction:
    if spec.direction == "friendly":
        return Friendly(**_given(spec, sigma="friendly_sigma", decay="friendly_decay"))
    if spec.direction == "variance_suppressed":
        return VarianceSuppressed(**_given(spec, theta="vasso_theta"))
    return Direction()


def _given(spec: MethodSpec, *same: str, **renamed: str) -> dict[str, Any]:
    """Keyword arguments read off the specification: fields of the same name, and argument=field."""
    return {name: getattr(spec, name) for name in same} | {name: getattr(spec, f) for name, f in renamed.items()}


_CHOICES: dict[str, tuple[str, ...]] = {
    "base": BASES,
    "probe": PROBES,
    "direction": DIRECTIONS,
    "transport": TRANSPORTS,
    "norm": NORMS,
    "batch_norm": BATCH_NORM_PASSES,
    "fisher_form": ("authors", "kim"),
    "divergence": DIVERGENCES,
    "structure": STRUCTURES,
    "reduction": get_args(Reduction),
    "likelihood": get_args(LikelihoodName),
}

_POSITIVE = ("> 0", lambda x: x > 0)
_NOT_NEGATIVE = (">= 0", lambda x: x >= 0)
_FRACTION = ("in [0, 1)", lambda x: 0 <= x < 1)
_COUNT = (">= 1", lambda x: x >= 1)
_RANGES: dict[str, tuple[str, Any]] = {
    "lr": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "momentum": _FRACTION,
    "rho": _NOT_NEGATIVE,
    "start_step": _NOT_NEGATIVE,
    "friendly_sigma": _NOT_NEGATIVE,
    "friendly_decay": _FRACTION,
    "vasso_theta": ("in (0, 1]", lambda x: 0 < x <= 1),
    "fisher_eta": _POSITIVE,
    "asam_eta": _NOT_NEGATIVE,
    "noise_decay": _FRACTION,
    "noise_delta": _POSITIVE,
    "inner_steps": _COUNT,
    "inner_lr": _POSITIVE,
    "inner_momentum": _FRACTION,
    "clip_norm": _POSITIVE,
    "ema": _FRACTION,
    "damping": _NOT_NEGATIVE,
    "interval": _COUNT,
    "refresh_batch": _COUNT,
}
