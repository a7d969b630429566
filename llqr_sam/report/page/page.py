"""The page with all results: the claims, tables beside the paper's, figures, curves, and what has not been run.

The file contains its style, script, pictures and configurations, so it can be opened without a network. Equal results
and words give equal bytes.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.ticker import MaxNLocator
from omegaconf import OmegaConf

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.record import Record
from llqr_sam.report.claims.evidence import Evidence
from llqr_sam.report.figures.curves import Curve, curves_of, network_name
from llqr_sam.report.figures.drawing import colour
from llqr_sam.report.page.claims_section import claims_section
from llqr_sam.report.tables.accuracy_table import collect
from llqr_sam.report.tables.accuracy_text import print_accuracy
from llqr_sam.report.tables.labels import arch_label, dataset_label, method_label
from llqr_sam.report.tables.printed_table import PrintedTable
from llqr_sam.suite.config import sources
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.status.status import Status

WIDTH, HEIGHT = 460, 300  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44  # margins
INK = "currentColor"  # of the method that is black elsewhere: the page may be dark


@dataclass(frozen=True)
class Panel:
    """Axes and lines."""

    x_label: str
    y_label: str
    x_ticks: Sequence[tuple[float, str]]  # pixel and label
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[str]  # points of a polyline for each method


@dataclass(frozen=True)
class LegendEntry:
    """How a method is named and drawn."""

    name: str
    colour: str
    dashes: str


@dataclass(frozen=True)
class Chart:
    """The curves of a network."""

    title: str
    methods: Sequence[LegendEntry]
    panels: Sequence[Panel]


def chart(curves: Sequence[Curve]) -> Chart:
    """The chart of a network: error against epoch, loss against time."""
    errors = [(curve.epochs, curve.error.mean(axis=0)) for curve in curves]
    losses = [(curve.seconds.mean(axis=0) / 60, curve.loss.mean(axis=0)) for curve in curves]
    methods = []
    for curve in curves:
        ink = INK if curve.cell.method == "sgdm" else colour(curve.cell.method)
        methods.append(LegendEntry(curve.label, ink, "6 3" if curve.cell.geometry == "newton" else ""))
    panels = _panel(errors, "epoch", curves[0].error_label), _panel(losses, "minutes", "test cross-entropy")
    return Chart(network_name(curves[0].cell), methods, panels)


def _panel(lines: Sequence[tuple[np.ndarray, np.ndarray]], x_label: str, y_label: str) -> Panel:
    """Draw lines of x and y. The first tenth of training, where losses fall steeply, does not stretch the y axis."""
    lines = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in lines]
    late = np.concatenate([y[len(y) // 10 :] for _, y in lines])
    x_high = max(float(x.max()) for x, _ in lines)
    margin = 0.05 * float(np.ptp(late)) or 1.0
    y_low, y_high = float(late.min()) - margin, float(late.max()) + margin

    def x_pixel(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / x_high

    def y_pixel(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_low) / (y_high - y_low)

    points = [" ".join(f"{x_pixel(a):.1f},{y_pixel(b):.1f}" for a, b in zip(x, y, strict=True)) for x, y in lines]
    return Panel(x_label, y_label, _ticks(0.0, x_high, x_pixel), _ticks(y_low, y_high, y_pixel), points)


def _ticks(low: float, high: float, pixel: Callable[[float], float]) -> list[tuple[float, str]]:
    values = map(float, MaxNLocator(5).tick_values(low, high))
    return [(round(pixel(value), 1), f"{value:g}") for value in values if low <= value <= high]


@dataclass(frozen=True)
class RunLink:
    """A run of a cell, with a link to its record if it has one."""

    run_id: str
    state: str
    href: str = ""  # of the record, relative to the page
    details: str = ""


@dataclass(frozen=True)
class CellSource:
    """What cells are made from: runs or a measurement, the command that makes them and their configuration."""

    name: str
    command: str
    config: str  # YAML
    runs: tuple[RunLink, ...] = ()
    what: str = "Configuration, but for the seed"  # describes config


@dataclass(frozen=True)
class Section:
    """A table on the page."""

    table: PrintedTable
    sources: Sequence[CellSource] = ()  # of the table's cells
    charts: Sequence[Chart] = ()  # curves of its runs
    damage: Sequence[str] = ()  # a line for each record that does not count
    picture: str = ""  # a PNG in base64


def write_page(
    results: Path,
    claims: Evidence,
    sections: Sequence[Section],
    figures: Mapping[str, str],
    words: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write ``results/report/index.html``; returns the file.

    Args:
        results: Folder whose ``figures/`` holds the pictures.
        claims: What the records say of the paper's claims; the first section.
        sections: The tables, in any order.
        figures: Number -> title. A figure without a picture is listed as not drawn.
        words: What the runs were started with.
        notes: Further lines for the list of what has not been run.
    """
    loader = PackageLoader("llqr_sam.report.page")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = jinja.get_template("page.html").render(
        claims=claims_section(claims),
        claims_picture=_picture("claims", results),
        sections=sorted(sections, key=_order),
        figures=[(number, title, _picture(f"figure_{int(number):02d}", results)) for number, title in figures.items()],
        notes=notes,
        words=shlex.join(words),
    )
    path = results / "report" / "index.html"
    with replacing(path) as file:
        file.write(text.encode())
    return path


def _picture(name: str, results: Path) -> str:
    """The PNG as a data URI; empty if the figure has not been drawn."""
    path = results / "figures" / f"{name}.png"
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.exists() else ""


def accuracy_section(command: Command) -> Section:
    """The table that a command names."""
    status, table = collect(command)
    return Section(
        print_accuracy(table),
        sources=[_source(result.runs, status, command.run_words) for result in table.cells],
        charts=[chart(curves) for row in table.rows if (curves := curves_of(row))],
        damage=status.damaged,
    )


def _source(runs: Sequence[Planned], status: Status, table_words: Sequence[str]) -> CellSource:
    """The runs of a cell, with the command that trains one of them; ``table_words`` hold for every run of the table."""
    cell = runs[0].cell
    words = ["python", "train.py", *sources.flags(), f"dataset={cell.dataset}", f"arch={cell.arch}"]
    words += [f"optim={cell.method}"]
    words += [f"geometry={cell.geometry}"] * bool(cell.geometry)
    words += [f"dataset.label_noise={cell.label_noise:g}"] * bool(cell.label_noise)
    words += table_words
    words += [f"{choice.key}={choice.value!r}" for choice in runs[0].choices if choice.origin == "selected"]
    noise = f", label noise {cell.label_noise:g}" if cell.label_noise else ""
    return CellSource(
        name=f"{method_label(cell)} on {dataset_label(cell.dataset)}, {arch_label(cell.arch)}{noise}",
        command=shlex.join(words),
        config=OmegaConf.to_yaml(OmegaConf.create(runs[0].settings.as_dict())),
        runs=tuple(_run_link(run, status) for run in runs),
    )


def _run_link(run: Planned, status: Status) -> RunLink:
    record, path = status.records.get(run.run_id), status.paths.get(run.run_id)
    if record is None or path is None:
        return RunLink(run.run_id, status.line(run) if status.of_run(run) != "missing" else "not run")
    return RunLink(run.run_id, status.line(run), f"../runs/{path.parent.name}/{path.name}", _details(record))


def _details(record: Record) -> str:
    """What the run was trained with, and what came of it."""
    details = [
        record.device,
        f"torch {record.packages.get('torch', 'unknown')}",
        f"commit {(record.git_commit or 'unknown')[:7]}{'+' * record.git_dirty}",
        f"{record.seconds.total / 60:.1f} minutes",
        f"weights {record.weights_sha256[:12]}",
    ]
    if record.data_sha256 is not None:
        details.append(f"data {record.data_sha256[:12]}")
    return ", ".join(details)


def _order(section: Section) -> tuple[bool, int, str]:
    """Sorts tables by number, named ones last; a twin comes after its table."""
    name = section.table.number
    number = name.partition("-")[0]
    return (not number.isdigit(), int(number) if number.isdigit() else 0, name)
