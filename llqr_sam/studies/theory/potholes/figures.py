"""Figures 2 and 3: the optimizers on a sharp ring around a flat basin, and the numbers beside the pictures.

Learning rates are given as eta lambda, with lambda the ring's radial curvature: plain gradient descent is stable in the
ring below 2.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from llqr_sam.report.figures.drawing import FAINT, FIXED, INK, PAPER, WIDTH, look
from llqr_sam.report.figures.numbers import Numbers, write_picture
from llqr_sam.report.tables.labels import METHOD_LABELS
from llqr_sam.studies.theory.potholes.landscape import (
    FATES,
    METHODS,
    PROBING,
    RADIUS,
    SHARPNESS,
    VERDICTS,
    Learning,
    Outcomes,
    Setting,
    Survey,
    crest,
    loss_at,
    paired_paths,
    verdict,
)

LOOKS = {method: look("sgdm" if method == "gd" else method) for method in METHODS}
NAMES = {method: METHOD_LABELS.get(method, "GD") for method in METHODS}
LINES: dict[str, dict[str, Any]] = {  # thin dashed lines are drawn over thick ones
    method: {"color": LOOKS[method].colour, "linestyle": LOOKS[method].dash, "linewidth": width}
    for method, width in {"gd": 3.0, "llqr": 1.6, "sam": 3.0, "llqr_sam": 1.6}.items()
}
HOLLOW = {"markerfacecolor": PAPER}
TURN = torch.linspace(0, 2 * math.pi, 361)
Map = dict[tuple[float, float], dict[str, Outcomes]]  # (eta lambda, rho) -> method -> what happened
CELLS = {  # verdict -> (colour, mark)
    "holds": ("#009E73", "✓"),
    "no shorter": ("#56B4E9", "="),
    "SAM only": ("#0072B2", "S"),
    "LLQR+SAM only": ("#E69F00", "L"),
    "between": ("#BBBBBB", "^"),
    "trapped": ("#F4F4F4", "·"),
    "without SAM": ("#CC79A7", "!"),
}
FACTOR = 1.8  # eta lambda of the pictures
RHO = 1.0
PLACE = f"$\\eta\\lambda$ = {FACTOR}, $\\rho$ = {RHO:g}"
PATHS = "paths: from the star to the marker; shading: loss, strongest above 2"
DRAWN = 3  # number of the start whose trajectories Figure 2 shows
SEEDS = 100
VARIANCES = (1e-9, 1e-6, 1e-4, 1e-2, 1e-1, 3e-1)


@dataclass(frozen=True)
class Grid:
    """Rates (as eta lambda) and radii of a map, and how LLQR learns there."""

    factors: tuple[float, ...]
    rhos: tuple[float, ...]
    learning: Learning

    def survey(self) -> Map:
        """Outcomes of every method for every rate and radius."""
        survey = Survey(learning=self.learning)
        etas = {factor: factor / SHARPNESS for factor in self.factors}
        found = {method: survey.grid(method, list(etas.values()), self.rhos) for method in METHODS}
        return {
            (factor, rho): {method: found[method][Setting(eta, rho)] for method in METHODS}
            for factor, eta in etas.items()
            for rho in self.rhos
        }


MAPS = {
    "run": Grid((0.5, 0.8, 1.1, 1.4, 1.6, 1.8, 1.95), (0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3), Learning()),
    "basin": Grid(
        (0.05, 0.08, 0.11, 0.14, 0.17, 0.19, 0.21), (0.04, 0.07, 0.1, 0.15, 0.2, 0.4, 0.8), Learning(history="basin")
    ),
}
NOISY = ((0.9, 1.0), (1.35, 1.0), (FACTOR, RHO), (FACTOR, 0.6))  # (eta lambda, rho) under noise


def figure_02(folder: Path) -> list[Path]:
    """Escape from starts in the ring that are not minima, and where in rates and radii the ordering holds."""
    survey = Survey()
    setting = Setting(FACTOR / SHARPNESS, RHO)
    runs = {method: survey.trajectories(method, [setting], survey.starts()) for method in METHODS}
    maps = {history: grid.survey() for history, grid in MAPS.items()}
    cells = [{"metric": history, **row} for history, found in maps.items() for row in _cells(found)]
    figure = Figure(figsize=(WIDTH, 13.8), layout="constrained")
    halves = figure.add_gridspec(2, 1, height_ratios=(1.0, 1.1))
    above, below = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    panels: dict[str, Axes] = above.subplot_mosaic(
        [["paths", "distances"], ["losses", "losses"]], height_ratios=(1.3, 1.0)
    )
    drawn = {method: run[:, DRAWN] for method, run in runs.items()}
    _draw_paths(panels["paths"], drawn, f"Start {DRAWN} of 8, {PLACE}")
    _draw_distances(panels["distances"], drawn)
    _draw_losses(panels["losses"], runs, 60, "Loss: median of 8 starts, band 10 to 90 %")
    _legend_of_methods(above)
    learned, kept = below.subplots(2)
    _draw_map(learned, MAPS["run"], maps["run"], "Metric learned where the run goes")
    _draw_map(kept, MAPS["basin"], maps["basin"], "Metric learned in the flat basin before, then kept")
    _legend_of_verdicts(below, {row["verdict"] for row in cells})
    summary = [_numbers(method, outcome) for method, outcome in maps["run"][FACTOR, RHO].items()]
    numbers = [
        Numbers(folder / "figure_02.csv", summary, _slack(summary, 8)),
        Numbers(folder / "figure_02_map.csv", cells, _slack(cells, 8)),
    ]
    return write_picture(figure, folder / "figure_02.png", numbers)


def figure_03(folder: Path) -> list[Path]:
    """Escape from the bottom of the ring by gradient noise, one schedule a seed shared by all methods."""
    survey = Survey()
    settings = [Setting(factor / SHARPNESS, rho) for factor, rho in NOISY]
    runs, found = {}, {}
    for method in METHODS:
        runs[method], found[method] = survey.noisy(method, settings, VARIANCES, SEEDS)
    main = NOISY.index((FACTOR, RHO))
    at_main = {method: [found[method][settings[main], v] for v in VARIANCES] for method in METHODS}
    figure = Figure(figsize=(WIDTH, 11.2), layout="constrained")
    panels: dict[str, Axes] = figure.subplot_mosaic([["paths", "shares"], ["losses", "losses"], ["walked", "walked"]])
    quiet = {method: run[:, main, 0] for method, run in runs.items()}
    first = {method: run[:, 0] for method, run in quiet.items()}
    _draw_paths(panels["paths"], first, f"Seed 0, variance {VARIANCES[0]:g}")
    _draw_shares(panels["shares"], at_main)
    title = f"Loss at variance {VARIANCES[0]:g}: median of {SEEDS} seeds, band 10 to 90 %"
    _draw_losses(panels["losses"], quiet, 80, title)
    _draw_walked(panels["walked"], at_main)
    figure.suptitle(PLACE, x=0.01, ha="left")
    _legend_of_methods(figure)
    numbers, verdicts = [], []
    for (factor, rho), setting in zip(NOISY, settings, strict=True):
        for variance in VARIANCES:
            here = {method: found[method][setting, variance] for method in METHODS}
            case = {"eta_lambda": factor, "rho": rho, "noise_variance": f"{variance:g}"}
            numbers += [{**case, **_numbers(method, outcome)} for method, outcome in here.items()]
            verdicts.append({**case, "verdict": verdict(here), **_paired(here)})
    tables = [
        Numbers(folder / "figure_03.csv", numbers, _slack(numbers, SEEDS)),
        Numbers(folder / "figure_03_map.csv", verdicts, _slack(verdicts, SEEDS)),
    ]
    return write_picture(figure, folder / "figure_03.png", tables)


def _cells(found: Map) -> Iterator[dict[str, object]]:
    """What a survey found for each rate and radius, as a row."""
    for (factor, rho), here in found.items():
        shares = {f"{method}_{fate}": here[method].share(fate) for method in METHODS for fate in ("ring", "flat")}
        paths = {f"{method}_path_to_flat": _mean(here[method].path_to_flat) for method in PROBING}
        yield {"eta_lambda": factor, "rho": rho, "verdict": verdict(here), **shares, **paths}


def _numbers(method: str, outcome: Outcomes) -> dict[str, object]:
    """Shares of the ends, and means over the runs for which a number is defined."""
    steps = {"escape_step": outcome.escape, "arrival_step": outcome.arrival}
    means = {name: _mean(torch.where(step >= 0, step.double(), torch.nan)) for name, step in steps.items()}
    paths = {"path_to_flat": _mean(outcome.path_to_flat), "path": _mean(outcome.path)}
    shares = {f"end_{fate}": f"{outcome.share(fate):.3f}" for fate in FATES}
    return {"method": method, "runs": len(outcome.fate), **shares, **means, **paths}


def _paired(here: dict[str, Outcomes]) -> dict[str, object]:
    """Change of path from SAM to LLQR+SAM on the same noise, relative, with its standard error."""
    to_flat, whole = paired_paths(here), (here["sam"].path, here["llqr_sam"].path)
    numbers: dict[str, object] = {"both_arrive": len(to_flat[0])}
    for name, (sam, llqr_sam) in (("path_to_flat", to_flat), ("path", whole)):
        change = (llqr_sam - sam) / sam.mean()
        numbers[f"{name}_change"] = f"{float(change.mean()):+.4f}"
        numbers[f"{name}_change_error"] = f"{float(change.std() / len(change) ** 0.5):.4f}"
    return numbers


def _mean(values: Tensor) -> str:
    """Mean of the finite values, or nothing."""
    finite = values[torch.isfinite(values)]
    return f"{float(finite.mean()):.2f}" if len(finite) else ""


def _slack(rows: Sequence[dict[str, object]], runs: int) -> dict[str, float]:
    """How far rounding may move the columns: counts and shares by one of ``runs``, means by 0.001."""
    kinds = {"both_arrive": 1.0, "end_": 1 / runs, "_ring": 1 / runs, "_flat": 1 / runs, "path": 0.001, "_step": 0.001}
    found = {column: [slack for part, slack in kinds.items() if part in column] for column in rows[0]}
    return {column: min(slacks) for column, slacks in found.items() if slacks}


def _draw_paths(axes: Axes, paths: dict[str, Tensor], title: str) -> None:
    """Trajectories ``[steps + 1, 2]`` over the loss; the ring's bottom and the crest are circles."""
    side = np.linspace(-6.3, 6.3, 71)
    grid = torch.tensor(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
    loss = loss_at(grid).reshape(len(side), -1).numpy()
    levels = np.array([0.05, 0.2, 0.5, 1.0, 2.0])
    shades = [to_rgba(INK, opacity) for opacity in np.linspace(0.04, 0.35, len(levels))]  # so that dark mode turns them
    axes.contourf(side, side, loss, levels=levels, colors=shades, extend="max")
    for radius, style in ((RADIUS, "-"), (crest(), ":")):
        circle = radius * torch.stack([torch.cos(TURN), torch.sin(TURN)]).numpy()
        axes.plot(*circle, style, color=FAINT, linewidth=0.9)
    for method, path in paths.items():
        x, y = path.mT.numpy()
        axes.plot(x, y, **LINES[method])
        ink, _, marker = LOOKS[method]
        axes.plot(x[-1], y[-1], marker=marker, color=ink, markersize=8, markeredgecolor=PAPER, zorder=4)
    start = next(iter(paths.values()))[0]
    axes.plot(*start, marker="*", color=PAPER, markeredgecolor=INK, markersize=15, zorder=3)
    axes.grid(visible=False)
    axes.set_aspect("equal")
    axes.set(title=title, xlim=(-6.3, 6.3), ylim=(-6.3, 6.3), xlabel=r"$\theta_1$", ylabel=r"$\theta_2$")
    axes.set(xticks=(-5, 0, 5), yticks=(-5, 0, 5))


def _draw_distances(axes: Axes, paths: dict[str, Tensor], steps: int = 40) -> None:
    """|theta| of trajectories ``[steps + 1, 2]`` against the step, with the ring and the crest."""
    for method, path in paths.items():
        axes.plot(torch.linalg.vector_norm(path[: steps + 1], dim=1).numpy(), **LINES[method])
    for radius, style, name in ((RADIUS, "-", "ring"), (crest(), ":", "crest")):
        axes.axhline(radius, linestyle=style, color=FAINT, linewidth=0.9, zorder=0)
        axes.text(steps, radius + 0.05, name, ha="right", va="bottom", color=FAINT)
    title = "Distance from the origin"
    axes.set(title=title, xlabel="step", ylabel=r"$|\theta|$", xlim=(0, steps), ylim=(0, None))


def _draw_losses(axes: Axes, runs: dict[str, Tensor], steps: int, title: str) -> None:
    """Median loss of runs ``[steps + 1, runs, 2]``, with a band from 10 to 90 %."""
    for method, run in runs.items():
        values = loss_at(run)[: steps + 1].clamp_min(1e-8).numpy()
        axes.plot(np.median(values, 1), **LINES[method])
        low, high = np.quantile(values, [0.1, 0.9], axis=1)
        axes.fill_between(np.arange(len(low)), low, high, color=LOOKS[method].colour, alpha=0.12, linewidth=0)
    axes.set_yscale("log")
    axes.set(title=title, xlabel="step", ylabel="loss (floored at 1e-8)", xlim=(0, steps))


def _draw_shares(axes: Axes, found: dict[str, list[Outcomes]]) -> None:
    """Where the runs end, by variance: in the flat basin filled, between it and the ring hollow."""
    for method, by_variance in found.items():
        for fate, line in (("flat", {}), ("between", HOLLOW)):
            shares = [outcome.share(fate) for outcome in by_variance]
            axes.plot(VARIANCES, shares, **LINES[method] | {"marker": LOOKS[method].marker, "linewidth": 1.4} | line)
    title = "Where runs end (filled: basin,\nhollow: between it and ring)"
    _against_variance(axes, title, ylabel=f"share of {SEEDS} runs", ylim=(-0.03, 1.03))


def _draw_walked(axes: Axes, found: dict[str, list[Outcomes]]) -> None:
    """Path lengths of the two methods that arrive, with quartiles over seeds: filled to the basin, hollow in all."""
    for method, shift in (("sam", 0.88), ("llqr_sam", 1.14)):
        ink, dash, marker = LOOKS[method]
        places = np.array(VARIANCES) * shift
        for path, line in (("path_to_flat", {}), ("path", HOLLOW)):
            quartiles = [np.nanquantile(getattr(o, path).numpy(), [0.25, 0.5, 0.75]) for o in found[method]]
            low, middle, high = np.array(quartiles).T
            (drawn, *_) = axes.errorbar(places, middle, [middle - low, high - middle], color=ink, fmt=marker)
            drawn.set(linestyle=dash, **line)
    axes.set_yscale("log")
    title = "Path length: median and quartiles over seeds\nfilled to the flat basin, hollow the whole run"
    _against_variance(axes, title, ylabel="length walked")
    axes.set_yticks([5, 10, 20, 40, 80], ["5", "10", "20", "40", "80"])
    axes.minorticks_off()


def _against_variance(axes: Axes, title: str, **settings: Any) -> None:
    axes.set_xscale("log")
    axes.set_xticks([1e-9, 1e-6, 1e-3, 1])
    axes.minorticks_off()
    axes.set(title=title, xlabel="variance of the gradient noise", xlim=(2e-10, 2), **settings)


def _draw_map(axes: Axes, grid: Grid, found: Map, title: str) -> None:
    """One coloured and marked cell for each rate and radius."""
    names = list(CELLS)
    codes = np.array([names.index(verdict(here)) for here in found.values()]).reshape(len(grid.factors), len(grid.rhos))
    colours = ListedColormap([colour for colour, _ in CELLS.values()])
    axes.pcolormesh(codes, cmap=colours, vmin=-0.5, vmax=len(names) - 0.5, edgecolors=PAPER, linewidth=1.5)
    for (row, column), code in np.ndenumerate(codes):
        axes.text(column + 0.5, row + 0.5, CELLS[names[code]][1], ha="center", va="center", color=FIXED)
    axes.grid(visible=False)
    axes.set_xticks(np.arange(len(grid.rhos)) + 0.5, [f"{rho:g}" for rho in grid.rhos])
    axes.set_yticks(np.arange(len(grid.factors)) + 0.5, [f"{factor:g}" for factor in grid.factors])
    axes.set(title=title, xlabel=r"$\rho$", ylabel=r"$\eta\lambda$")


def _legend_of_methods(figure: Figure | SubFigure) -> None:
    handles = [Line2D([], [], label=NAMES[m], marker=LOOKS[m].marker, **LINES[m]) for m in METHODS]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, title=PATHS)


def _legend_of_verdicts(figure: SubFigure, present: set[object]) -> None:
    shown = {name: cell for name, cell in CELLS.items() if name in present}
    handles = [
        Patch(facecolor=ink, edgecolor=FAINT, label=textwrap.fill(f"{mark}  {VERDICTS[name]}", 68))
        for name, (ink, mark) in shown.items()
    ]
    figure.legend(handles=handles, loc="outside lower center")
