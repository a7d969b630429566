"""From the settings of a method (docs/methods.md, section 1) to its optimizer.

conf/optim/*.yaml composes the parts by name; a new method is a new file there, not a new class here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from llqr_sam.methods import bases
from llqr_sam.methods.curvature.point import CurvatureDtype
from llqr_sam.methods.directions import Direction, Friendly, VarianceSuppressed
from llqr_sam.methods.llqr import LLQR
from llqr_sam.methods.metrics import Adaptive, FisherDiagonal, GradientNoise, Metric
from llqr_sam.methods.settings import LLQRSettings, MethodSettings, NamedBaseSettings
from llqr_sam.methods.sharpness_aware import SharpnessAware

# Class of a part, by the name of its settings.
PROBES: dict[str, Any] = {"identity": Metric, "fisher": FisherDiagonal, "adaptive": Adaptive, "noise": GradientNoise}
DIRECTIONS: dict[str, Any] = {"gradient": Direction, "friendly": Friendly, "variance_suppressed": VarianceSuppressed}


@dataclass(frozen=True)
class Method:
    """An optimizer and, where the method learns one, the metric that the training loop must refresh."""

    optimizer: Optimizer
    metric: LLQR | None


def build(
    settings: MethodSettings,
    model: nn.Module,
    *,
    process_group: dist.ProcessGroup | None = None,
    shard: bool = False,
    fused: bool | None = None,
    curvature_dtype: CurvatureDtype = None,
) -> Method:
    """Builds the method's optimizer over the model's trainable parameters.

    ``fused``: whether the base optimizer is one kernel; ``None`` is PyTorch's choice for the device. The other options
    are those of ``LLQR``, which may refuse the model.
    """
    base = _base(settings, model, fused)
    metric = None
    if settings.llqr is not None:
        values = {key: value for key, value in vars(settings.llqr).items() if key != "refresh_batch"}
        metric = LLQR(model, process_group=process_group, shard=shard, curvature_dtype=curvature_dtype, **values)
    transport = metric if isinstance(settings.transport, LLQRSettings) else None
    sam = settings.sam
    if sam is None:
        return Method(SharpnessAware(base, rho=0.0, transport=transport, model=model) if transport else base, metric)
    of_model = {"model": model} if sam.probe.kind == "adaptive" else {}  # ASAM reads the weights
    optimizer = SharpnessAware(
        base,
        probe=metric if isinstance(sam.probe, LLQRSettings) else PROBES[sam.probe.kind](**of_model, **vars(sam.probe)),
        direction=DIRECTIONS[sam.direction.kind](**vars(sam.direction)),
        transport=transport,
        model=model,
        **vars(sam.perturbation),
    )
    return Method(optimizer, metric)


def _base(settings: MethodSettings, model: nn.Module, fused: bool | None) -> Optimizer:
    if isinstance(settings.base, NamedBaseSettings):
        return bases.find(settings.base.base).build(model, settings.base.arguments, fused)
    kind = settings.base.kind
    return bases.Base(kind, bases.OWN[kind]).build(model, vars(settings.base), fused)
