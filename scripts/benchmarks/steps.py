"""What a step of each method and a refresh of each structure cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks.problem import Problem
from llqr_sam.engine.measurements.rounds import Row, time_rows
from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.methods.blocks.block import KernelBlock
from llqr_sam.methods.llqr import LLQR
from llqr_sam.methods.sharpness_aware import SharpnessAware

INNER_STEPS = 50  # T of the paper; a refresh is timed with fewer


def steps(
    make: Callable[[], Problem], structures: list[Structure], divergences: list[str], inner_steps: int, rounds: int
) -> list[Row]:
    """Rows: a gradient evaluation, an SGDM and a SAM step, and for each structure the steps and refreshes of LLQR."""
    gradient, sgdm, sam = make(), make(), make()
    sgd = sgdm.sgd()
    sharp = SharpnessAware(sam.sgd(), rho=0.1, model=sam.model)
    rows = [
        Row("gradient evaluation", gradient.evaluate, repeats=3),
        Row("SGDM step", lambda: sgd.step(sgdm.evaluate), repeats=3),
        Row("SAM step", lambda: sharp.step(sam.evaluate), repeats=3),
    ]
    for structure in structures:
        rows += _of_structure(make(), structure, divergences, inner_steps)
    time_rows(rows, rounds, gradient.device)
    return rows


def _of_structure(problem: Problem, structure: Structure, divergences: list[str], inner_steps: int) -> list[Row]:
    metrics = {d: LLQR(problem.model, divergence=d, structure=structure, inner_steps=inner_steps) for d in divergences}
    metric = next(iter(metrics.values()))
    gradients = {name: p.detach().clone() for name, p in problem.model.named_parameters()}
    llqr = SharpnessAware(problem.sgd(), rho=0.0, transport=metric)
    both = SharpnessAware(problem.sgd(), rho=0.1, probe=metric, transport=metric)
    rows = [
        Row(f"U g, {structure}", lambda: metric.apply(gradients), repeats=3),
        Row(f"LLQR step, {structure}", lambda: llqr.step(problem.evaluate), repeats=3),
        Row(f"LLQR+SAM step, {structure}", lambda: both.step(problem.evaluate), repeats=3),
    ]
    for name, each in metrics.items():
        refresh = partial(each.refresh, problem.inputs, problem.targets, problem.loss_fn)
        rows.append(Row(f"refresh, {name}, {structure}, per inner step", refresh, share=inner_steps))
    if structure == "ekfac":
        rows.append(Row("four m^2 n products of each kernel", _long_side_products(metric), repeats=3))
    return rows


def _long_side_products(metric: LLQR) -> Callable[[], object]:
    """What an E-KFAC inner step cannot do without: four products with the longer side's square factor."""
    pairs = []
    for block in metric._blocks:
        if isinstance(block, KernelBlock):
            short, long = sorted((block.n, block.m))
            kernel = torch.randn(block.count, short, long, device=block.factors["D"].device)
            pairs.append((kernel, torch.randn(block.count, long, long, device=kernel.device)))
    return lambda: [kernel @ square for kernel, square in pairs for _ in range(4)]


def overheads(rows: list[Row], intervals: Sequence[int]) -> list[tuple[str, list[float]]]:
    """LLQR+SAM, a refresh of ``INNER_STEPS`` every interval, as ratios to SAM: (divergence and structure, ratios)."""
    unit = rows[0]
    ratios = {row.name: row.ratio(unit) for row in rows}
    lines = []
    for name, ratio in ratios.items():
        if name.startswith("refresh"):
            _, divergence, structure, _ = name.split(", ")
            step = ratios[f"LLQR+SAM step, {structure}"]
            spread = [(step + ratio * INNER_STEPS / interval) / ratios["SAM step"] for interval in intervals]
            lines.append((f"{divergence}, {structure}", spread))
    return lines
