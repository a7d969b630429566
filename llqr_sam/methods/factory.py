"""From the settings of a method (docs/methods.md, section 1) to its optimizer.

conf/optim/*.yaml composes the parts by name; a new method is a new file there, not a new class here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from llqr_sam.methods.curvature.precision import CurvatureDtype
from llqr_sam.methods.directions import Direction, Friendly, VarianceSuppressed
from llqr_sam.methods.llqr import LLQR
from llqr_sam.methods.metrics import Adaptive, FisherDiagonal, GradientNoise, Metric
from llqr_sam.methods.settings import (
    AdaptiveSettings,
    FisherSettings,
    FriendlySettings,
    LLQRSettings,
    MethodSettings,
    NoiseSettings,
    SAMSettings,
    Settings,
    VarianceSuppressedSettings,
)
from llqr_sam.methods.sharpness_aware import SharpnessAware

BASES: dict[str, Any] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


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

    Args:
        settings: The method.
        model: The network.
        process_group: Ranks that learn one metric U together.
        shard: Whether U is spread over them.
        fused: Whether the base optimizer is one kernel; ``None``: PyTorch's choice for the device.
        curvature_dtype: Precision of the network when U is refreshed, as ``LLQR`` takes it.

    Raises:
        ValueError: ``LLQR`` refuses the model or ``curvature_dtype``.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    base = BASES[settings.base.kind](trainable, fused=fused, **vars(settings.base))
    metric = None
    if settings.llqr is not None:
        values = {key: value for key, value in vars(settings.llqr).items() if key != "refresh_batch"}
        metric = LLQR(model, process_group=process_group, shard=shard, curvature_dtype=curvature_dtype, **values)
    transport = metric if isinstance(settings.transport, LLQRSettings) else None
    if settings.sam is not None:
        return Method(_sharpness_aware(settings.sam, base, model, metric, transport), metric)
    if transport is not None:
        return Method(SharpnessAware(base, rho=0.0, transport=transport, model=model), metric)
    return Method(base, None)


def _sharpness_aware(
    sam: SAMSettings, base: Optimizer, model: nn.Module, metric: LLQR | None, transport: LLQR | None
) -> SharpnessAware:
    """Builds the sharpness-aware step around a base."""
    probe = _probe(sam.probe, model, metric)
    direction = _direction(sam.direction)
    return SharpnessAware(
        base, probe=probe, direction=direction, transport=transport, model=model, **vars(sam.perturbation)
    )


def _probe(settings: Settings, model: nn.Module, metric: LLQR | None) -> Metric | None:
    """Builds the probe, or takes the learned metric."""
    match settings:
        case LLQRSettings():
            return metric
        case FisherSettings():
            return FisherDiagonal(**vars(settings))
        case AdaptiveSettings():
            return Adaptive(model, **vars(settings))
        case NoiseSettings():
            return GradientNoise(**vars(settings))
    return None


def _direction(settings: Settings) -> Direction | None:
    """Builds the direction; ``None`` is the gradient."""
    match settings:
        case FriendlySettings():
            return Friendly(**vars(settings))
        case VarianceSuppressedSettings():
            return VarianceSuppressed(**vars(settings))
    return None
