"""What memory a refresh takes, whole and in chunks; one inner step takes as much as fifty."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.problem import Problem
from llqr_sam.engine.measurements.rounds import peak_mib
from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.methods.llqr import LLQR


def memory(problem: Problem, structure: Structure, divergence: str, chunk_size: int | None) -> dict[str, Any]:
    """MiB of the parameters, of U, and at the highest above them during a refresh (``None`` where not known)."""
    metric = LLQR(problem.model, divergence=divergence, structure=structure, inner_steps=1, chunk_size=chunk_size)
    refresh = partial(metric.refresh, problem.inputs, problem.targets, problem.loss_fn)
    return {
        "refresh": f"{divergence}, {structure}, chunks of {chunk_size or len(problem.inputs)}",
        "parameters": 4 * problem.parameters / 2**20,
        "U": 4 * metric.storage / 2**20,
        "refresh above both": peak_mib(refresh, problem.device),
    }
