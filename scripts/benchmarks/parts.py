"""Where a refresh spends its time: its parts are timed from the inside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from llqr_sam.engine.measurements.rounds import clock
from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.methods.curvature.products import Curvature
from llqr_sam.methods.llqr import LLQR
from llqr_sam.studies.table_10.timing import Problem


class PartTimes:
    """Adds up the time of methods by part; a timed call within a timed call counts for the inner one's part alone.

    Attributes:
        seconds: Part -> seconds, the device's work included.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = device
        self._nested: list[float] = []  # for each open call, the time of the timed calls within it

    def timed(self, method: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The method, adding its time to a part."""

        def timing(*arguments: Any, **keywords: Any) -> Any:
            start = clock(self._device)
            self._nested.append(0.0)
            try:
                return method(*arguments, **keywords)
            finally:
                elapsed = clock(self._device) - start
                self.seconds[part] += elapsed - self._nested.pop()
                if self._nested:
                    self._nested[-1] += elapsed

        return timing


def parts(problem: Problem, structure: Structure, divergence: str, inner_steps: int) -> dict[str, float]:
    """Seconds of one refresh by part, after a warm-up: linearisation, curvature products, the structure, the rest."""
    metric = LLQR(problem.model, divergence=divergence, structure=structure, inner_steps=inner_steps)
    refresh = (problem.inputs, problem.targets, problem.loss_fn)
    metric.refresh(*refresh)
    zero = {name: torch.zeros_like(p) for name, p in problem.model.named_parameters()}
    times, matrix = PartTimes(problem.device), metric._curvature.matrix
    linearise = times.timed(matrix.at, "linearisation and gradient")

    def at(point: Any) -> Curvature:
        curvature: Curvature = linearise(point)
        return replace(curvature, product=times.timed(curvature.product, "curvature products"))

    methods: list[tuple[Any, str, str]] = []
    for learner in {type(block.learner(zero, metric._descent)) for block in metric._blocks}:
        methods += [(learner, name, "U g and heavy ball") for name in ("apply", "descend", "factors")]
    with mock.patch.object(matrix, "at", at), ExitStack() as stack:
        for owner, name, part in methods:
            stack.enter_context(mock.patch.object(owner, name, times.timed(getattr(owner, name), part)))
        start = clock(problem.device)
        metric.refresh(*refresh)
        whole = clock(problem.device) - start
    return {**times.seconds, "the rest": whole - sum(times.seconds.values()), "whole": whole}
