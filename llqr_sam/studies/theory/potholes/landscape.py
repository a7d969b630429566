"""A flat basin with a sharp ring around it, runs of the optimizers on it, and where they end (paper, Figures 2 and 3).

    f(theta) = sqrt(a) theta (1 - q) / (1 + c q),   q = (|theta| / R)^2p,   L(theta) = 1/2 |f(theta)|^2

The paper gives no formula; this one is ours. L is zero at the origin, in a basin of curvature a, and on the circle
|theta| = R, in a well of radial curvature 4 p^2 a / (1 + c)^2; between them is a crest. Beyond the ring L levels off
to a / (2 c^2) |theta|^2, so that nothing overflows. With p = 4 and c = 0.2 the ring is 44 times as sharp as the basin.
LLQR learns its metric from f as from any other network: f has two outputs, with a Gaussian likelihood.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.methods.curvature.products import Divergence
from llqr_sam.methods.llqr import LLQR, RefreshError
from llqr_sam.methods.metrics import Metric
from llqr_sam.methods.sharpness_aware import SharpnessAware
from llqr_sam.studies.theory.potholes.simulate import Replicas, take_step

METHODS = ("gd", "llqr", "sam", "llqr_sam")
LEARNED, PROBING = ("llqr", "llqr_sam"), ("sam", "llqr_sam")
FLAT = 0.1  # a, curvature of the basin
RADIUS = 5.0  # R of the ring
POWER = 4  # p, how sharp the ring is
LEVELING = 0.2  # c
SHARPNESS = 4 * POWER**2 * FLAT / (1 + LEVELING) ** 2  # radial curvature at the bottom of the ring
# Ends of a run: in the flat basin, between it and the ring, in the ring, or outside the ring. Between basin and ring,
# SAM hovers on the crest or rests where its probe hits the ring's bottom and finds no gradient.
FATES = ("flat", "between", "ring", "away")
TAIL = 20  # steps at the end of a run, over which its distance from the origin is averaged, since SAM never stops
# What most runs of a setting do. A path counts as shorter from 1 % on, in the mean over runs in which both arrive.
VERDICTS = {
    "holds": "GD and LLQR stay, SAM and LLQR+SAM reach the flat basin, LLQR+SAM along a shorter path, as in the paper",
    "no shorter": "the same, but LLQR+SAM's path is not shorter",
    "SAM only": "only SAM reaches the flat basin",
    "LLQR+SAM only": "only LLQR+SAM reaches the flat basin",
    "between": "neither reaches the flat basin, but not both stay in the ring: they stop between the two",
    "trapped": "all four stay in the ring",
    "without SAM": "GD or LLQR leaves the ring too",
}


def network(theta: Tensor) -> Tensor:
    """f, ``[B, 2]``, at theta ``[B, 2]``."""
    q = (theta.square().sum(-1, keepdim=True) / RADIUS**2) ** POWER
    return math.sqrt(FLAT) * theta * (1 - q) / (1 + LEVELING * q)


def loss_at(theta: Tensor) -> Tensor:
    """L, one per row."""
    return 0.5 * network(theta).square().sum(-1)


def polar(radii: Sequence[float], angles: Sequence[float]) -> Tensor:
    """Points from polar coordinates, ``[B, 2]`` float64."""
    r, phi = (torch.tensor(values, dtype=torch.float64) for values in (radii, angles))
    return torch.stack([r * torch.cos(phi), r * torch.sin(phi)], dim=1)


@cache
def crest() -> float:
    """Distance from the origin at which L is largest inside the ring, to 1e-4."""
    r = torch.linspace(0, RADIUS, int(RADIUS * 1e4) + 1, dtype=torch.float64)
    return float(r[loss_at(torch.stack([r, torch.zeros_like(r)], 1)).argmax()])


@dataclass(frozen=True)
class Learning:
    """How LLQR learns its metric here: options of ``LLQR``, and a history.

    Two options differ from LLQR's defaults. U is refreshed before every step, because a run has only a few hundred; and
    clipping is off, because one norm over many runs would couple them.

    With history "run", U starts at I and learns where the run goes. With "basin", U was learned in the flat basin and
    stays constant: the average geometry that Assumption 4.1 supposes.
    """

    interval: int = 1
    inner_lr: float = 1e-3
    ema: float = 0.95
    divergence: Divergence = "ngd"
    structure: Structure = "diagonal"  # "dense" needs one run per tensor
    history: Literal["run", "basin"] = "run"

    def metric(self, model: nn.Module) -> LLQR:
        """A fresh LLQR."""
        options = asdict(self)
        del options["history"]
        return LLQR(model, likelihood="gaussian", clip_norm=1e9, **options)

    def learn_in_the_basin(self, points: Points) -> LLQR:
        """A metric refreshed at points drawn within R/3 of the origin; the points are put back afterwards."""
        metric = replace(self, inner_lr=20.0, ema=0.5).metric(points)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            starts = [theta.clone() for theta in points.theta]
            for _ in range(20):
                for theta in points.theta:
                    draw = torch.rand(theta.shape, generator=generator, dtype=theta.dtype) + 0.1
                    theta.copy_(draw * RADIUS / 5)
                metric.refresh(NOTHING, None, half_squared)
            for theta, start in zip(points.theta, starts, strict=True):
                theta.copy_(start)
        return metric


class Points(nn.Module):
    """Independent points on the landscape: one tensor ``[n, 2]`` per setting of the optimizer."""

    def __init__(self, starts: Sequence[Tensor]) -> None:
        super().__init__()
        self.theta = nn.ParameterList([nn.Parameter(start.clone()) for start in starts])

    def everything(self) -> Tensor:
        """All points, ``[B, 2]``."""
        return torch.cat(list(self.theta))

    def forward(self, _: Tensor) -> Tensor:
        """f at every point, ``[B, 2]``."""
        return network(self.everything())


NOTHING = torch.zeros(1, dtype=torch.float64)  # the network's input: its outputs depend on its parameters alone


def half_squared(outputs: Tensor, _: object) -> Tensor:
    """1/2 |f|^2, summed over points so that each has its own gradient."""
    return 0.5 * outputs.square().sum()


@dataclass(frozen=True)
class Setting:
    """Learning rate and radius; a method without a probe ignores rho."""

    eta: float
    rho: float


def run_together(
    method: str,
    settings: Sequence[Setting],
    starts: Sequence[Tensor],
    steps: int,
    learning: Learning | None = None,
    noise: Sequence[Tensor] | None = None,
) -> Tensor:
    """Run one of ``METHODS`` from many starts under several settings, in one optimizer.

    ``starts`` has ``[n, 2]`` float64 for each setting, B in all; ``noise`` is that of the gradient in each step,
    ``[B, 2]``, and refreshes of U see none. Returns theta_0 ... theta_steps, ``[steps + 1, B, 2]``.
    """
    learning, points, learned = learning or Learning(), Points(starts), None
    if method in LEARNED:
        in_basin = learning.history == "basin"
        learned = learning.learn_in_the_basin(points) if in_basin else learning.metric(points)
    metric = Replicas(learned or Metric())
    groups = [
        {"params": [theta], "lr": setting.eta, "rho": setting.rho if method in PROBING else 0.0}
        for theta, setting in zip(points.theta, settings, strict=True)
    ]
    optimizer = SharpnessAware(torch.optim.SGD(groups, lr=1.0), probe=metric, transport=metric, model=points)
    visited = [points.everything().detach()]
    for step in range(steps):
        if learned is not None and learning.history == "run":
            with contextlib.suppress(RefreshError):  # U stays as it was, as it does after the first two failures
                learned.refresh_if_due(NOTHING, None, half_squared)
        xi = noise[step] if noise else None
        take_step(optimizer, lambda: half_squared(points(NOTHING), None), points.everything, xi)
        visited.append(points.everything().detach())
    return torch.stack(visited)


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


def outcomes(trajectory: Tensor) -> Outcomes:
    """Outcomes of runs ``[steps + 1, B, 2]``."""
    distance = torch.linalg.vector_norm(trajectory, dim=2)
    strides = torch.linalg.vector_norm(trajectory.diff(dim=0), dim=2)
    walked = torch.cat([torch.zeros_like(strides[:1]), strides.cumsum(0)])
    end = distance[-TAIL:].mean(0)
    borders = torch.tensor([RADIUS / 4, (crest() + RADIUS) / 2, 1.2 * RADIUS], dtype=end.dtype)
    fate = torch.bucketize(torch.nan_to_num(end, nan=math.inf), borders)
    arrival = _first(distance < RADIUS / 5)
    path_to_flat = walked.gather(0, arrival.clamp_min(0).unsqueeze(0)).squeeze(0).where(arrival >= 0, math.nan)
    return Outcomes(fate, _first(distance < crest()), arrival, path_to_flat, walked[-1])


def _first(happens: Tensor) -> Tensor:
    """First step at which a column of ``[steps, B]`` is true, or -1."""
    return torch.where(happens.any(0), happens.int().argmax(0), -1)


@dataclass(frozen=True)
class Survey:
    """Runs of every method from the same starts, under the same settings."""

    steps: int = 200
    learning: Learning = field(default_factory=Learning)

    def starts(self) -> Tensor:
        """Eight points in the ring, none at its bottom: four distances, all around, ``[8, 2]``."""
        angles = [0.3 + 2 * math.pi * i / 8 for i in range(8)]
        return polar([0.96 * 5, 0.98 * 5, 1.02 * 5, 1.04 * 5] * 2, angles)

    def bottom(self) -> Tensor:
        """A point on the bottom of the ring, ``[1, 2]``, off the axes and diagonals."""
        return polar([RADIUS], [0.5])

    def trajectories(self, method: str, settings: Sequence[Setting], starts: Tensor) -> Tensor:
        """theta of every step, ``[steps + 1, B, 2]``, the settings one after another."""
        return run_together(method, settings, [starts] * len(settings), self.steps, self.learning)

    def grid(self, method: str, etas: Sequence[float], rhos: Sequence[float]) -> dict[Setting, Outcomes]:
        """Outcomes from the eight starts for every rate and radius; a method without a probe runs once per rate."""
        probing = method in PROBING
        settings = [Setting(eta, rho) for eta in etas for rho in (rhos if probing else rhos[:1])]
        runs = outcomes(self.trajectories(method, settings, self.starts())).split(8)
        found = dict(zip(settings, runs, strict=True))
        return {Setting(eta, rho): found[Setting(eta, rho if probing else rhos[0])] for eta in etas for rho in rhos}

    def noisy(
        self, method: str, settings: Sequence[Setting], variances: Sequence[float], seeds: int
    ) -> tuple[Tensor, dict[tuple[Setting, float], Outcomes]]:
        """Run from the ring's bottom with gradient noise of several variances; all methods share a seed's noise.

        Returns theta ``[steps + 1, settings, variances, seeds, 2]``, and the outcomes by setting and variance.
        """
        generator = torch.Generator().manual_seed(0)
        unit = torch.randn(self.steps, seeds, 2, generator=generator, dtype=torch.float64)
        cases = list(product(settings, variances))
        noise = [torch.cat([math.sqrt(variance) * xi for _, variance in cases]) for xi in unit]
        starts = [self.bottom().repeat(seeds, 1)] * len(cases)
        own = [setting for setting, _ in cases]
        visited = run_together(method, own, starts, self.steps, self.learning, noise)
        runs = outcomes(visited).split(seeds)
        by_case = visited.view(self.steps + 1, len(settings), len(variances), seeds, 2)
        return by_case, dict(zip(cases, runs, strict=True))


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
