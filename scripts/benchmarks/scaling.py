"""How a refresh grows with batch size, width, depth and parameter count, beside a gradient evaluation's growth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from benchmarks.problem import Problem
from llqr_sam.engine.measure import Row, exponent, time_rows
from llqr_sam.methods.assembly import Structure
from llqr_sam.methods.llqr import LLQR
from llqr_sam.models.registry import build
from llqr_sam.models.vit import SIZES
from llqr_sam.torchvision_compat import ensure_torchvision


@dataclass(frozen=True)
class Point:
    """One network and batch of a sweep.

    Attributes:
        sweep: What varies: batch, width, depth or parameters.
        name: The value it has.
        parameters: Of the network.
        gradient_seconds, refresh_seconds: Medians; a refresh per inner step.
        ratio: Median of the rounds' ratios.
    """

    sweep: str
    name: str
    parameters: int
    gradient_seconds: float
    refresh_seconds: float
    ratio: float


def scaling(structure: Structure, inner_steps: int, rounds: int, device: torch.device) -> Iterator[Point]:
    """The points of all sweeps, as they are measured."""
    for batch in (16, 32, 64, 128):
        yield _measure("batch", str(batch), _resnet(16, batch, device), structure, inner_steps, rounds)
    for width in (8, 16, 32, 64):
        yield _measure("width", str(width), _resnet(width, 32, device), structure, inner_steps, rounds)
    for depth in (3, 6, 12):
        yield _measure("depth", str(depth), _vit((192, depth, 3), 16, device), structure, inner_steps, rounds)
    for name, size in SIZES.items():
        yield _measure("parameters", name, _vit(size, 4, device), structure, inner_steps, rounds)


def exponents(points: list[Point]) -> tuple[float, float]:
    """Powers of the parameter count that a refresh and a gradient evaluation grow with."""
    parameters = [point.parameters for point in points]
    refresh, gradient = [p.refresh_seconds for p in points], [p.gradient_seconds for p in points]
    return exponent(parameters, refresh), exponent(parameters, gradient)


def _measure(sweep: str, name: str, problem: Problem, structure: Structure, inner_steps: int, rounds: int) -> Point:
    metric = LLQR(problem.model, structure=structure, inner_steps=inner_steps)
    refresh = partial(metric.refresh, problem.inputs, problem.targets, problem.loss_fn)
    gradient = Row("gradient", problem.evaluate)
    row = Row("refresh", refresh, share=inner_steps)
    time_rows([gradient, row], rounds, problem.device)
    return Point(sweep, name, problem.parameters, gradient.median, row.median, row.ratio(gradient))


def _resnet(width: int, batch: int, device: torch.device) -> Problem:
    return Problem(build("resnet18", classes=100, image_size=32, width=width), (batch, 3, 32, 32), 100, device)


def _vit(size: tuple[int, int, int], batch: int, device: torch.device) -> Problem:
    """Patch 16 at 64 x 64: 17 tokens, so that the largest fits two cores."""
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    width, depth, heads = size
    model: nn.Module = VisionTransformer(
        img_size=64, patch_size=16, num_classes=1000, embed_dim=width, depth=depth, num_heads=heads
    )
    return Problem(model, (batch, 3, 64, 64), 1000, device)
