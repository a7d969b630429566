"""Where runs on the sharp ring end, how far they walk, and for which settings the paper's ordering holds.

The paper's claim (Figures 2 and 3): GD and LLQR stay in the ring, SAM and LLQR+SAM leave it for the flat basin,
LLQR+SAM along the shorter path. Here it is measured, not assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llqr_sam.studies.theory.potholes.landscape import METHODS, PROBING, Learning, Setting, SharpRing, run_together

FATES = ("flat", "between", "ring", "away")
"""Ends of a run: in the flat basin, between it and the ring, in the ring, or outside the ring.

Between basin and ring, SAM hovers on the crest or rests where its probe hits the ring's bottom and finds no gradient.
"""
TAIL = 20  # steps at the end of a run, over which its distance from the origin is averaged, since SAM never stops


@dataclass(frozen=True)
class Outcomes:
    """How B runs ended; ``[B]`` each."""

    fate: Tensor  # index into FATES
    escape: Tensor  # first step inside the crest, or -1
    arrival: Tensor  # first step within R/5 of the origin, or -1
    path_to_flat: Tensor  # length walked until the arrival, or nan
    path: Tensor  # length walked in the whole run

    def share(self, fate: str) -> float:
        """Share of the runs with that end."""
        return float((self.fate == FATES.index(fate)).double().mean())

    def split(self, size: int) -> list[Outcomes]:
        """The runs of each setting, ``size`` of them per setting."""
        columns = (getattr(self, name).split(size) for name in self.__dataclass_fields__)
        return [Outcomes(*parts) for parts in zip(*columns, strict=True)]


def outcomes(landscape: SharpRing, trajectory: Tensor) -> Outcomes:
    """Outcomes of runs ``[steps + 1, B, 2]``."""
    distance = torch.linalg.vector_norm(trajectory, dim=2)
    strides = torch.linalg.vector_norm(trajectory.diff(dim=0), dim=2)
    walked = torch.cat([torch.zeros_like(strides[:1]), strides.cumsum(0)])
    end = distance[-TAIL:].mean(0)
    crest, radius = landscape.crest, landscape.radius
    borders = torch.tensor([radius / 4, (crest + radius) / 2, 1.2 * radius], dtype=end.dtype)
    fate = torch.bucketize(torch.nan_to_num(end, nan=math.inf), borders)
    arrival = _first(distance < radius / 5)
    path_to_flat = walked.gather(0, arrival.clamp_min(0).unsqueeze(0)).squeeze(0)
    path_to_flat = torch.where(arrival >= 0, path_to_flat, math.nan)
    return Outcomes(fate, _first(distance < crest), arrival, path_to_flat, walked[-1])


def _first(happens: Tensor) -> Tensor:
    """First step at which a column of ``[steps, B]`` is true, or -1."""
    return torch.where(happens.any(0), happens.int().argmax(0), -1)


@dataclass(frozen=True)
class Survey:
    """Runs of every method from the same starts, under the same settings."""

    landscape: SharpRing = field(default_factory=SharpRing)
    steps: int = 200
    learning: Learning = field(default_factory=Learning)

    def starts(self) -> Tensor:
        """Eight points in the ring, none at its bottom: four distances, all around, ``[8, 2]``."""
        angles = [0.3 + 2 * math.pi * i / 8 for i in range(8)]
        return self.landscape.points([0.96 * 5, 0.98 * 5, 1.02 * 5, 1.04 * 5] * 2, angles)

    def bottom(self) -> Tensor:
        """A point on the bottom of the ring, ``[1, 2]``, off the axes and diagonals."""
        return self.landscape.points([self.landscape.radius], [0.5])

    def trajectories(self, method: str, settings: Sequence[Setting], starts: Tensor) -> Tensor:
        """theta of every step, ``[steps + 1, B, 2]``, the settings one after another."""
        return run_together(self.landscape, method, settings, [starts] * len(settings), self.steps, self.learning)

    def grid(self, method: str, etas: Sequence[float], rhos: Sequence[float]) -> dict[Setting, Outcomes]:
        """Outcomes from the eight starts for every rate and radius; a method without a probe runs once per rate."""
        probing = method in PROBING
        settings = [Setting(eta, rho) for eta in etas for rho in (rhos if probing else rhos[:1])]
        runs = outcomes(self.landscape, self.trajectories(method, settings, self.starts())).split(8)
        found = dict(zip(settings, runs, strict=True))
        return {Setting(eta, rho): found[Setting(eta, rho if probing else rhos[0])] for eta in etas for rho in rhos}

    def noisy(
        self, method: str, settings: Sequence[Setting], variances: Sequence[float], seeds: int
    ) -> tuple[Tensor, dict[tuple[Setting, float], Outcomes]]:
        """Run from the ring's bottom with gradient noise of several variances; all methods share a seed's noise.

        Returns:
            theta ``[steps + 1, settings, variances, seeds, 2]``, and the outcomes by setting and variance.
        """
        generator = torch.Generator().manual_seed(0)
        unit = torch.randn(self.steps, seeds, 2, generator=generator, dtype=torch.float64)
        cases = [(setting, variance) for setting in settings for variance in variances]
        noise = [torch.cat([math.sqrt(variance) * xi for _, variance in cases]) for xi in unit]
        starts = [self.bottom().repeat(seeds, 1)] * len(cases)
        own = [setting for setting, _ in cases]
        visited = run_together(self.landscape, method, own, starts, self.steps, self.learning, noise)
        runs = outcomes(self.landscape, visited).split(seeds)
        by_case = visited.view(self.steps + 1, len(settings), len(variances), seeds, 2)
        return by_case, dict(zip(cases, runs, strict=True))


VERDICTS = {
    "holds": "GD and LLQR stay, SAM and LLQR+SAM reach the flat basin, LLQR+SAM along a shorter path, as in the paper",
    "no shorter": "the same, but LLQR+SAM's path is not shorter",
    "SAM only": "only SAM reaches the flat basin",
    "LLQR+SAM only": "only LLQR+SAM reaches the flat basin",
    "between": "neither reaches the flat basin, but not both stay in the ring: they stop between the two",
    "trapped": "all four stay in the ring",
    "without SAM": "GD or LLQR leaves the ring too",
}
"""What most runs of a setting do. A path counts as shorter from 1 % on, in the mean over runs in which both arrive."""


def paired_paths(by_method: dict[str, Outcomes]) -> tuple[Tensor, Tensor]:
    """Length walked to the flat basin by SAM and LLQR+SAM, for starts and noise from which both arrive."""
    sam, llqr_sam = by_method["sam"], by_method["llqr_sam"]
    both = (sam.arrival >= 0) & (llqr_sam.arrival >= 0)
    return sam.path_to_flat[both], llqr_sam.path_to_flat[both]


def verdict(by_method: dict[str, Outcomes]) -> str:
    """Whether the paper's ordering holds for one setting: a key of ``VERDICTS``."""
    gd, llqr, sam, llqr_sam = (by_method[method] for method in METHODS)
    if min(gd.share("ring"), llqr.share("ring")) < 0.5:
        return "without SAM"
    reach = sam.share("flat") > 0.5, llqr_sam.share("flat") > 0.5
    if all(reach):
        theirs, ours = paired_paths(by_method)
        return "holds" if ours.mean() < 0.99 * theirs.mean() else "no shorter"
    if any(reach):
        return "SAM only" if reach[0] else "LLQR+SAM only"
    return "trapped" if min(sam.share("ring"), llqr_sam.share("ring")) > 0.5 else "between"
