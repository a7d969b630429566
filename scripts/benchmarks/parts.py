"""Where a refresh spends its time: the parts of one, timed from the inside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from benchmarks.problem import Problem
from llqr_sam.engine.measurements.rounds import clock
from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.methods.curvature import divergence as divergence_module
from llqr_sam.methods.llqr import LLQR


def parts(problem: Problem, structure: Structure, divergence: str, inner_steps: int) -> dict[str, float]:
    """Seconds of one refresh by part, after a warm-up: linearisation, curvature products, the structure, the rest."""
    metric = LLQR(problem.model, divergence=divergence, structure=structure, inner_steps=inner_steps)
    refresh = (problem.inputs, problem.targets, problem.loss_fn)
    metric.refresh(*refresh)
    zero = {name: torch.zeros_like(p) for name, p in problem.model.named_parameters()}
    learners = {type(block.learner(zero, metric._descent)) for block in metric._blocks}
    curvature = divergence_module.HessianCurvature if divergence == "newton" else divergence_module.FisherCurvature
    device, seconds, nested = problem.device, defaultdict[str, float](float), list[float]()

    def timed(part: str, owner: type, *methods: str) -> AbstractContextManager[None]:
        return _timed(partial(_timing, device=device, seconds=seconds, nested=nested, part=part), owner, methods)

    with ExitStack() as stack:
        stack.enter_context(timed("linearisation and gradient", curvature, "__init__"))
        stack.enter_context(timed("curvature products", curvature, "product"))
        for learner in learners:
            stack.enter_context(timed("U g and heavy ball", learner, "apply", "descend", "factors"))
        start = clock(device)
        metric.refresh(*refresh)
        whole = clock(device) - start
    return {**seconds, "the rest": whole - sum(seconds.values()), "whole": whole}


@contextmanager
def _timed(
    timing: Callable[[Callable[..., Any]], Callable[..., Any]], owner: type, methods: Sequence[str]
) -> Iterator[None]:
    """Has the class's methods timed while the context is open."""
    originals = {name: getattr(owner, name) for name in methods}
    for name, original in originals.items():
        setattr(owner, name, timing(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(owner, name, original)


def _timing(
    original: Callable[..., Any], device: torch.device, seconds: dict[str, float], nested: list[float], part: str
) -> Callable[..., Any]:
    """The method, adding its time to a part, kernels included; ``nested`` has the time of timed calls in each open one.

    A call within a call counts once, in the inner one's part, so that parts never add up to more than the whole.
    """

    def method(*arguments: Any, **keywords: Any) -> Any:
        start = clock(device)
        nested.append(0.0)
        try:
            return original(*arguments, **keywords)
        finally:
            elapsed = clock(device) - start
            seconds[part] += elapsed - nested.pop()
            if nested:
                nested[-1] += elapsed

    return method
