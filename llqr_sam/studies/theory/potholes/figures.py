"""Figures 2 and 3: the optimizers on a sharp ring around a flat basin, and the numbers beside the pictures.

Learning rates are given as eta lambda, with lambda the ring's radial curvature: plain gradient descent is stable in the
ring below 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from torch import Tensor

from llqr_sam.report.figures.drawing import COLOURS, label, tidy, write_csv, write_figure
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

LINES = {"gd": (3.0, (1.0, 0.0)), "llqr": (1.6, (4.0, 2.0)), "sam": (3.0, (1.0, 0.0)), "llqr_sam": (1.6, (5.0, 1.5))}
STYLES: dict[str, dict[str, Any]] = {  # thin dashed lines are drawn over thick ones
    method: {"label": METHOD_LABELS.get(method, "GD"), "color": COLOURS.get(method, COLOURS["sgdm"])}
    | {"linewidth": width, "dashes": dashes}
    for method, (width, dashes) in LINES.items()
}
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
    figure = Figure(figsize=(12.5, 11.0), layout="constrained")
    halves = figure.add_gridspec(2, 1, height_ratios=(1.0, 1.1))
    above, below = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    paths, distances, losses = above.subplots(1, 3, width_ratios=(1.25, 1.0, 1.0))
    drawn = {method: run[:, DRAWN] for method, run in runs.items()}
    _draw_paths(paths, drawn, f"Start {DRAWN} of 8, {PLACE}")
    _draw_distances(distances, drawn)
    _draw_losses(losses, runs, 60, "upper right", "Loss: median of 8 starts, band 10 to 90 %")
    learned, kept = below.subplots(1, 2)
    _draw_map(learned, MAPS["run"], maps["run"], "Metric learned where the run goes")
    _draw_map(kept, MAPS["basin"], maps["basin"], "Metric learned in the flat basin before, then kept")
    _legend_of_verdicts(below, {row["verdict"] for row in cells})
    summary = [_numbers(method, outcome) for method, outcome in maps["run"][FACTOR, RHO].items()]
    return [
        write_figure(figure, folder / "figure_02.png"),
        write_csv(folder / "figure_02.csv", summary),
        write_csv(folder / "figure_02_map.csv", cells),
    ]


def figure_03(folder: Path) -> list[Path]:
    """Escape from the bottom of the ring by gradient noise, one schedule a seed shared by all methods."""
    survey = Survey()
    settings = [Setting(factor / SHARPNESS, rho) for factor, rho in NOISY]
    runs, found = {}, {}
    for method in METHODS:
        runs[method], found[method] = survey.noisy(method, settings, VARIANCES, SEEDS)
    main = NOISY.index((FACTOR, RHO))
    at_main = {method: [found[method][settings[main], v] for v in VARIANCES] for method in METHODS}
    figure = Figure(figsize=(12.5, 10.5), layout="constrained")
    axes = figure.subplots(2, 2)
    quiet = {method: run[:, main, 0] for method, run in runs.items()}
    first = {method: run[:, 0] for method, run in quiet.items()}
    _draw_paths(axes[0, 0], first, f"Seed 0, {PLACE}, noise variance {VARIANCES[0]:g}")
    title = f"Loss at that variance: median of {SEEDS} seeds, band 10 to 90 %"
    _draw_losses(axes[0, 1], quiet, 80, (0.7, 0.12), title)
    _draw_shares(axes[1, 0], at_main)
    _draw_walked(axes[1, 1], at_main)
    numbers, verdicts = [], []
    for (factor, rho), setting in zip(NOISY, settings, strict=True):
        for variance in VARIANCES:
            here = {method: found[method][setting, variance] for method in METHODS}
            case = {"eta_lambda": factor, "rho": rho, "noise_variance": f"{variance:g}"}
            numbers += [{**case, **_numbers(method, outcome)} for method, outcome in here.items()]
            verdicts.append({**case, "verdict": verdict(here), **_paired(here)})
    return [
        write_figure(figure, folder / "figure_03.png"),
        write_csv(folder / "figure_03.csv", numbers),
        write_csv(folder / "figure_03_map.csv", verdicts),
    ]


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


def _draw_paths(axes: Axes, paths: dict[str, Tensor], title: str) -> None:
    """Trajectories ``[steps + 1, 2]`` over the loss; the ring's bottom and the crest are circles."""
    side = np.linspace(-6.3, 6.3, 316)
    grid = torch.tensor(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
    loss = loss_at(grid).reshape(len(side), -1).clamp_max(2.0).numpy()
    filled = axes.contourf(side, side, loss, levels=np.linspace(0, 2, 21), cmap="Greys", alpha=0.55)
    for radius, style in ((RADIUS, "-"), (crest(), ":")):
        circle = radius * torch.stack([torch.cos(TURN), torch.sin(TURN)]).numpy()
        axes.plot(*circle, style, color="#555555", linewidth=0.9)
    for method, path in paths.items():
        x, y = path.mT.numpy()
        axes.plot(x, y, **STYLES[method])
        ink = STYLES[method]["color"]
        axes.plot(x[-1], y[-1], marker="o", color=ink, markersize=7, markeredgecolor="white", zorder=4)
    start = next(iter(paths.values()))[0]
    axes.plot(*start, marker="*", color="white", markeredgecolor="black", markersize=11, zorder=3)
    axes.set_aspect("equal")
    label(axes, title, xlim=(-6.3, 6.3), ylim=(-6.3, 6.3), xlabel=r"$\theta_1$", ylabel=r"$\theta_2$")
    axes.figure.colorbar(filled, ax=axes, label="loss (cut at 2)", shrink=0.8, ticks=[0, 1, 2], location="bottom")
    axes.legend(loc="upper right", framealpha=0.95, title="star: start, dot: end", fontsize=8.5, title_fontsize=8.5)


def _draw_distances(axes: Axes, paths: dict[str, Tensor], steps: int = 40) -> None:
    """|theta| of trajectories ``[steps + 1, 2]`` against the step, with the ring and the crest."""
    for method, path in paths.items():
        axes.plot(torch.linalg.vector_norm(path[: steps + 1], dim=1).numpy(), **STYLES[method])
    for radius, style, name in ((RADIUS, "-", "ring"), (crest(), ":", "crest")):
        axes.axhline(radius, linestyle=style, color="#555555", linewidth=0.9, zorder=0)
        axes.text(steps, radius + 0.05, name, ha="right", va="bottom", fontsize=9, color="#555555")
    title = "Distance from the origin, same run"
    label(axes, title, xlabel="step", ylabel=r"$|\theta|$", xlim=(0, steps), ylim=(0, None))
    tidy(axes)
    axes.legend(frameon=False, loc="center right")


def _draw_losses(axes: Axes, runs: dict[str, Tensor], steps: int, place: str | tuple[float, float], title: str) -> None:
    """Median loss of runs ``[steps + 1, runs, 2]``, with a band from 10 to 90 %."""
    for method, run in runs.items():
        values = loss_at(run)[: steps + 1].clamp_min(1e-8).numpy()
        axes.plot(np.median(values, 1), **STYLES[method])
        low, high = np.quantile(values, [0.1, 0.9], axis=1)
        axes.fill_between(np.arange(len(low)), low, high, color=STYLES[method]["color"], alpha=0.12, linewidth=0)
    axes.set_yscale("log")
    label(axes, title, xlabel="step", ylabel="loss (floored at 1e-8)", xlim=(0, steps))
    tidy(axes)
    axes.legend(framealpha=0.9, fontsize=9, loc=place)


def _draw_shares(axes: Axes, found: dict[str, list[Outcomes]]) -> None:
    """Where the runs end, by variance: in the flat basin solid, between it and the ring dotted."""
    for method, by_variance in found.items():
        for fate, style, what in (("flat", "-", "flat basin"), ("between", ":", "between")):
            shares = [outcome.share(fate) for outcome in by_variance]
            name, ink = f"{STYLES[method]['label']}, {what}", STYLES[method]["color"]
            axes.plot(VARIANCES, shares, style, label=name, color=ink, marker="o", markersize=5, linewidth=1.8)
    title = "Where runs end; the rest stay in the ring"
    _against_variance(axes, title, 4, ylabel=f"share of {SEEDS} runs", ylim=(-0.03, 1.03))


def _draw_walked(axes: Axes, found: dict[str, list[Outcomes]]) -> None:
    """Path lengths of the two methods that arrive, with quartiles over seeds."""
    shown = (("path_to_flat", "o", "-", "to the flat basin"), ("path", "s", ":", "whole run"))
    for method, shift in (("sam", 0.88), ("llqr_sam", 1.14)):
        ink, places = STYLES[method]["color"], np.array(VARIANCES) * shift
        for path, marker, style, what in shown:
            quartiles = [np.nanquantile(getattr(o, path).numpy(), [0.25, 0.5, 0.75]) for o in found[method]]
            low, middle, high = np.array(quartiles).T
            axes.plot(places, middle, style, color=ink, linewidth=1.2)
            bars, name = [middle - low, high - middle], f"{STYLES[method]['label']}, {what}"
            axes.errorbar(places, middle, bars, fmt=marker, color=ink, capsize=3, markersize=6, label=name)
    axes.set_yscale("log")
    _against_variance(axes, "Path length: median and quartiles over seeds", 2, ylabel="length walked")
    axes.set_yticks([5, 10, 20, 40, 80], ["5", "10", "20", "40", "80"])
    axes.minorticks_off()


def _against_variance(axes: Axes, title: str, columns: int, **settings: Any) -> None:
    axes.set_xscale("log")
    label(axes, title, xlabel="variance of the gradient noise", **settings)
    tidy(axes)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=9, frameon=False, ncols=columns)


def _draw_map(axes: Axes, grid: Grid, found: Map, title: str) -> None:
    """One coloured and marked cell for each rate and radius."""
    names = list(CELLS)
    codes = np.array([names.index(verdict(here)) for here in found.values()]).reshape(len(grid.factors), len(grid.rhos))
    colours = ListedColormap([colour for colour, _ in CELLS.values()])
    axes.pcolormesh(codes, cmap=colours, vmin=-0.5, vmax=len(names) - 0.5, edgecolors="white", linewidth=1.5)
    for (row, column), code in np.ndenumerate(codes):
        axes.text(column + 0.5, row + 0.5, CELLS[names[code]][1], ha="center", va="center", fontsize=12)
    axes.set_xticks(np.arange(len(grid.rhos)) + 0.5, [f"{rho:g}" for rho in grid.rhos])
    axes.set_yticks(np.arange(len(grid.factors)) + 0.5, [f"{factor:g}" for factor in grid.factors])
    label(axes, title, xlabel=r"$\rho$", ylabel=r"$\eta\lambda$")


def _legend_of_verdicts(figure: SubFigure, present: set[object]) -> None:
    shown = {name: cell for name, cell in CELLS.items() if name in present}
    handles = [
        Patch(facecolor=c, edgecolor="#666666", label=f"{m}  {VERDICTS[name]}") for name, (c, m) in shown.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", frameon=False, fontsize=9.5)
