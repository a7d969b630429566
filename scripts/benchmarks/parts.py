"""Where a refresh spends its time: the parts of one, timed from the inside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from benchmarks.problem import Problem
from llqr_sam.engine.measure import clock
from llqr_sam.methods import divergence as divergence_module
from llqr_sam.methods.assembly import Structure
from llqr_sam.methods.llqr import LLQR


def parts(problem: Problem, structure: Structure, divergence: str, inner_steps: int) -> dict[str, float]:
    """Seconds of one refresh by part, after a warm-up: linearisation, curvature products, the structure, the rest."""
    metric = LLQR(problem.model, divergence=divergence, structure=structure, inner_steps=inner_steps)
    refresh = (problem.inputs, problem.targets, problem.loss_fn)
    metric.refresh(*refresh)
    zero = {name: torch.zeros_like(p) for name, p in problem.model.named_parameters()}
    learners = {type(block.learner(zero, metric._descent)) for block in metric._blocks}
    curvature = divergence_module.HessianCurvature if divergence == "newton" else divergence_module.FisherCurvature
    device, seconds = problem.device, defaultdict[str, float](float)
    with ExitStack() as timed:
        timed.enter_context(_timed(device, seconds, "linearisation and gradient", curvature, "__init__"))
        timed.enter_context(_timed(device, seconds, "curvature products", curvature, "product"))
        for learner in learners:
            timed.enter_context(_timed(device, seconds, "U g and heavy ball", learner, "apply", "descend", "factors"))
        start = clock(device)
        metric.refresh(*refresh)
        whole = clock(device) - start
    return {**seconds, "the rest": whole - sum(seconds.values()), "whole": whole}


@contextmanager
def _timed(device: torch.device, seconds: dict[str, float], part: str, owner: type, *methods: str) -> Iterator[None]:
    """Adds the time of the class's methods, their kernels included, to a part while the context is open."""
    originals = {name: getattr(owner, name) for name in methods}
    for name, original in originals.items():
        setattr(owner, name, _timing(original, device, seconds, part))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(owner, name, original)


def _timing(
    original: Callable[..., Any], device: torch.device, seconds: dict[str, float], part: str
) -> Callable[..., Any]:
    def method(*arguments: Any, **keywords: Any) -> Any:
        start = clock(device)
        try:
            return original(*arguments, **keywords)
        finally:
            seconds[part] += clock(device) - start

    return method
