"""Records of runs that were never trained, whose scores, flatness and times are made up by method and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llqr_sam.engine.records.record import Flatness, Record, Seconds
from llqr_sam.report.claims.evidence import Evidence, gather
from llqr_sam.suite.plan.plan import Planned
from tests.suite.plans import plan_of
from tests.suite.records import record_of


def gather_at_paper(numbers: Sequence[str], words: Sequence[str]) -> Evidence:
    """``gather`` at the paper's scale alone, so that what a test counts does not depend on the other scales."""
    evidence = gather(numbers, words)
    paper = next(scale for scale in evidence.scales if scale.name == "paper")
    return replace(evidence, scales=(paper,), findings=evidence.at(paper))


def write(results: Path, run: Planned, record: Record) -> Path:
    """Write a record where its run's would be."""
    return record.write(results / "runs" / run.folder / f"{run.run_id}.json")


def flat(record: Record, top: float, trace: float | None = None, rho: float = 0.2) -> Record:
    """The record with such a flatness; trace and m-sharpness follow the top eigenvalue unless given."""
    trace = 3 * top if trace is None else trace
    return replace(record, sharpness=Flatness([top, top / 2], trace, top / 1000, rho, 128, 1024, 1.0))


def timed(record: Record, seconds: float, evaluation: float = 0.0, device: str = "cpu") -> Record:
    """The record of a run that took so long, so much of it in evaluation."""
    return replace(record, seconds=Seconds(0, 0, 0, 0, evaluation, seconds), device=device)


def write_table(
    results: Path,
    *words: str,
    gains: Mapping[str, float],
    spread: float = 0.3,
    noise_gain: float = 0.0,
    seeds: Sequence[int] = range(100),
    noises: Sequence[float] = (),
) -> None:
    """Records of a table, of some seeds and noise levels or of all.

    Each run of a method in ``gains`` (by its label) has a score, a flatness and a time. Scores fall with the label
    noise and share what belongs to the seed; a gain grows by ``noise_gain`` times itself times the noise.
    """
    for run in plan_of(*words):
        gain, noise, seed = gains.get(run.cell.label), run.cell.label_noise, run.settings.seed
        if gain is None or seed not in seeds or (noises and noise not in noises):
            continue
        draw = np.random.default_rng([seed, sum(map(ord, str(run.cell)))])
        shared = np.random.default_rng([seed, 7]).standard_normal()
        score = 60 - 40 * noise + gain * (1 + noise_gain * noise) + shared + spread * draw.standard_normal()
        top = 40 * np.exp(-gain + 0.2 * draw.standard_normal())
        record = flat(record_of(run, [score - 1, score, score - 0.2]), top)
        cost = 1.0 if run.cell.method in ("sgdm", "llqr") else 2.0
        write(results, run, timed(record, 100 * cost * (1.1 if run.cell.geometry else 1.0) + 10 * draw.random(), 5.0))
