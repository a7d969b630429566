"""How a refresh grows with batch size, width, depth and parameter count, beside a gradient evaluation's growth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from llqr_sam.engine.measurements.rounds import Workload, exponent, time_in_rounds
from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.methods.llqr import LLQR
from llqr_sam.models.registry import build
from llqr_sam.studies.table_10.timing import Problem
from llqr_sam.torchvision_compat import ensure_torchvision


@dataclass(frozen=True)
class Point:
    """One network and batch of a sweep."""

    sweep: str  # what varies: batch, width, depth or parameters
    name: str  # its value
    parameters: int  # of the network
    gradient_seconds: float  # median over the rounds
    refresh_seconds: float  # the same, per inner step
    ratio: float  # of the two, median over the rounds


def scaling(
    sweeps: Sequence[str], structure: Structure, inner_steps: int, rounds: int, device: torch.device
) -> Iterator[Point]:
    """Measure the points of the sweeps, one by one."""
    for sweep in sweeps:
        for name, problem in SWEEPS[sweep].items():
            yield _measure(sweep, name, problem(device), structure, inner_steps, rounds)


def exponents(points: list[Point]) -> tuple[float, float]:
    """The powers of the parameter count with which a refresh and a gradient evaluation grow."""
    parameters = [point.parameters for point in points]
    refresh, gradient = [p.refresh_seconds for p in points], [p.gradient_seconds for p in points]
    return exponent(parameters, refresh), exponent(parameters, gradient)


def _measure(sweep: str, name: str, problem: Problem, structure: Structure, inner_steps: int, rounds: int) -> Point:
    metric = LLQR(problem.model, structure=structure, inner_steps=inner_steps)
    refresh = partial(metric.refresh, problem.inputs, problem.targets, problem.loss_fn)
    gradient, per_step = Workload("gradient", problem.evaluate), Workload("refresh", refresh, share=inner_steps)
    time_in_rounds([gradient, per_step], rounds, problem.device)
    ratio = per_step.ratio(gradient)
    return Point(sweep, name, problem.parameters, gradient.median, per_step.median, ratio)


def _resnet(width: int, batch: int, device: torch.device) -> Problem:
    return Problem(build("resnet18", classes=100, image_size=32, width=width), (batch, 3, 32, 32), 100, device)


def _shallow_vit(depth: int, device: torch.device) -> Problem:
    """A ViT of ViT-Ti's width on 17 tokens."""
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    model: nn.Module = VisionTransformer(
        img_size=64, patch_size=16, num_classes=1000, embed_dim=192, depth=depth, num_heads=3
    )
    return Problem(model, (16, 3, 64, 64), 1000, device)


def _vit(arch: str, device: torch.device) -> Problem:
    return Problem(build(arch, classes=1000, image_size=224), (2, 3, 224, 224), 1000, device)


SWEEPS: dict[str, dict[str, Callable[[torch.device], Problem]]] = {
    "batch": {str(batch): partial(_resnet, 16, batch) for batch in (16, 32, 64, 128)},
    "width": {str(width): partial(_resnet, width, 32) for width in (8, 16, 32, 64)},
    "depth": {str(depth): partial(_shallow_vit, depth) for depth in (3, 6, 12)},
    "parameters": {arch: partial(_vit, arch) for arch in ("vit_tiny", "vit_small", "vit_base", "vit_large")},
}
