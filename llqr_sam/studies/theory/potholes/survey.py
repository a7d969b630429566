"""Where runs on the sharp ring end, how far they walk, and for which settings the paper's ordering holds.

The paper's claim (Figures 2 and 3): GD and LLQR stay in the ring, SAM and LLQR+SAM leave it for the flat basin,
LLQR+SAM along the shorter path. It is measured here, not assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llqr_sam.studies.theory.potholes.landscape import METHODS, Fleet, Learning, Setting, SharpRing

FATES = ("flat", "between", "ring", "away")
"""Ends of a run: in the flat basin, between it and the ring, in the ring, or outside it.

Between them SAM hovers on the crest, or rests where its probe ends on the bottom of the ring and finds no gradient.
"""
TAIL = 20  # a run's end is its mean distance from the origin over so many steps, since SAM never stops


@dataclass(frozen=True)
class Outcomes:
    """What became of B runs.

    Attributes:
        fate: Index into ``FATES``.
        escape: First step inside the crest; -1 for never.
        arrival: First step within R/5 of the origin; -1 for never.
        path_to_flat: Length walked until then, nan for never.
        path: Length walked in the whole run.
    """

    fate: Tensor
    escape: Tensor
    arrival: Tensor
    path_to_flat: Tensor
    path: Tensor

    def share(self, fate: str) -> float:
        """Share of the runs with that end."""
        return float((self.fate == FATES.index(fate)).double().mean())

    def part(self, rows: slice) -> Outcomes:
        """Some of the runs."""
        return Outcomes(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def split(self, size: int) -> list[Outcomes]:
        """Runs of each setting, ``size`` a setting."""
        return [self.part(slice(i, i + size)) for i in range(0, len(self.fate), size)]


def outcomes(landscape: SharpRing, trajectory: Tensor) -> Outcomes:
    """Summary of ``[steps + 1, B, 2]``."""
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
    """Every method from the same starts, under the same settings.

    Args:
        landscape: Where.
        steps: Of each run.
        learning: LLQR's.
    """

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
        """theta of every step, the settings one after another; see ``Fleet.run``."""
        fleet = Fleet(self.landscape, method, settings, self.learning)
        return fleet.run([starts] * len(settings), self.steps)

    def grid(self, method: str, etas: Sequence[float], rhos: Sequence[float]) -> dict[Setting, Outcomes]:
        """From the eight starts under every pair of rate and radius; a method without a probe runs once a rate."""
        probing = "sam" in method
        settings = [Setting(eta, rho) for eta in etas for rho in (rhos if probing else rhos[:1])]
        runs = outcomes(self.landscape, self.trajectories(method, settings, self.starts())).split(8)
        found = dict(zip(settings, runs, strict=True))
        return {Setting(eta, rho): found[Setting(eta, rho if probing else rhos[0])] for eta in etas for rho in rhos}

    def noisy(
        self, method: str, settings: Sequence[Setting], variances: Sequence[float], seeds: int
    ) -> tuple[Tensor, dict[tuple[Setting, float], Outcomes]]:
        """From the ring's bottom, with gradient noise of several variances; a seed's schedule is that of all methods.

        Returns:
            theta ``[steps + 1, settings, variances, seeds, 2]``, and the outcomes by setting and variance.
        """
        generator = torch.Generator().manual_seed(0)
        unit = torch.randn(self.steps, seeds, 2, generator=generator, dtype=torch.float64)
        cases = [(setting, variance) for setting in settings for variance in variances]
        noise = [torch.cat([math.sqrt(variance) * xi for _, variance in cases]) for xi in unit]
        fleet = Fleet(self.landscape, method, [setting for setting, _ in cases], self.learning)
        visited = fleet.run([self.bottom().repeat(seeds, 1)] * len(cases), self.steps, noise)
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
"""What most runs of a setting do. A path is shorter if its mean over runs in which both arrive is by 1 % or more."""


def paired_paths(by_method: dict[str, Outcomes]) -> tuple[Tensor, Tensor]:
    """Length walked to the flat basin by SAM and LLQR+SAM, where both arrive from the same start and noise."""
    sam, llqr_sam = by_method["sam"], by_method["llqr_sam"]
    both = (sam.arrival >= 0) & (llqr_sam.arrival >= 0)
    return sam.path_to_flat[both], llqr_sam.path_to_flat[both]


def verdict(by_method: dict[str, Outcomes]) -> str:
    """What one setting says about the paper's ordering: a key of ``VERDICTS``."""
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
