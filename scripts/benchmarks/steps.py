"""What a step of each method and a refresh of each structure cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from llqr_sam.engine.measurements.rounds import Workload, time_in_rounds
from llqr_sam.methods.blocks.block import KernelBlock
from llqr_sam.methods.llqr import LLQR
from llqr_sam.studies.table_10.timing import Problem, TimedMethod
from llqr_sam.suite.config.command import Command

INNER_STEPS = 50  # T of the paper; a refresh is timed with fewer


def steps(
    problem: Problem, structures: list[str], divergences: list[str], inner_steps: int, rounds: int
) -> list[Workload]:
    """Time a gradient evaluation, the first workload, SGDM and SAM, and for each structure steps and refreshes."""
    workloads = [
        Workload("gradient evaluation", problem.evaluate, repeats=3),
        Workload("SGDM step", _method(problem, "optim=sgdm").step, repeats=3),
        Workload("SAM step", _method(problem, "optim=sam").step, repeats=3),
    ]
    for structure in structures:
        workloads += _of_structure(problem, structure, divergences, inner_steps)
    time_in_rounds(workloads, rounds, problem.device)
    return workloads


def _method(problem: Problem, *words: str) -> TimedMethod:
    """The method that train.py makes of these words."""
    return TimedMethod(Command.of(*words).settings.optim, problem)


def _of_structure(problem: Problem, structure: str, divergences: list[str], inner_steps: int) -> list[Workload]:
    words = {d: (f"geometry={d}", f"structure={structure}") for d in divergences}
    methods = {d: _method(problem, "optim=llqr", *words[d]) for d in divergences}
    llqr, both = methods[divergences[0]], _method(problem, "optim=llqr_sam", *words[divergences[0]])
    metric = llqr.metric
    assert metric is not None
    gradients = {name: p.detach().clone() for name, p in problem.model.named_parameters()}
    workloads = [
        Workload(f"U g, {structure}", lambda: metric.apply(gradients), repeats=3),
        Workload(f"LLQR step, {structure}", llqr.step, repeats=3),
        Workload(f"LLQR+SAM step, {structure}", both.step, repeats=3),
    ]
    for name, method in methods.items():
        refresh = partial(method.refresh, inner_steps)
        workloads.append(Workload(f"refresh, {name}, {structure}, per inner step", refresh, share=inner_steps))
    if structure == "ekfac":
        workloads.append(Workload("four m^2 n products of each kernel", _long_side_products(metric), repeats=3))
    return workloads


def _long_side_products(metric: LLQR) -> Callable[[], object]:
    """What an E-KFAC inner step cannot do without: four products with the square factor of the longer side."""
    pairs = []
    for block in metric._blocks:
        if isinstance(block, KernelBlock):
            short, long = sorted((block.n, block.m))
            kernel = torch.randn(block.count, short, long, device=block.factors["D"].device)
            pairs.append((kernel, torch.randn(block.count, long, long, device=kernel.device)))
    return lambda: [kernel @ square for kernel, square in pairs for _ in range(4)]


def overheads(workloads: list[Workload], intervals: Sequence[int]) -> list[tuple[str, list[float]]]:
    """LLQR+SAM, a refresh of ``INNER_STEPS`` every interval, as ratios to SAM: (divergence and structure, ratios)."""
    ratios = {workload.name: workload.ratio(workloads[0]) for workload in workloads}
    lines = []
    for name, ratio in ratios.items():
        if name.startswith("refresh"):
            _, divergence, structure, _ = name.split(", ")
            step = ratios[f"LLQR+SAM step, {structure}"]
            spread = [(step + ratio * INNER_STEPS / interval) / ratios["SAM step"] for interval in intervals]
            lines.append((f"{divergence}, {structure}", spread))
    return lines
