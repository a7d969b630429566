"""A sweep as a reader sees it: the lines after ``python train.py -m``, a table for files and the page, and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llqr_sam.report.sweeps.sweep import Point, Sweep, collect
from llqr_sam.report.tables.labels import arch_label, dataset_label
from llqr_sam.report.tables.printed_table import PrintedCell, PrintedRow, PrintedTable, RowGroup, csv_text
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import Config
from llqr_sam.suite.plan.labels import IDENTITY, METHOD, NETWORK, method_name, short_names
from llqr_sam.suite.plan.plan import Planned
from llqr_sam.suite.status.status import Status

SCORES = {"%": "test top-1 in percent", "BLEU": "validation BLEU"}
NUMBERS = ("n", "best", "deviation", "95 % interval", "last")
LOST = ("diverged", "failed", "running", "missing")


def print_ending(runs: Sequence[Planned], config: Config) -> None:
    """Print what a multirun came to, unless it is one run, none was trained here or somebody else trains them."""
    if config.dry_run or (config.launch.name == "slurm" and not config.status):
        return
    try:
        sweep = collect(Status.under(runs, config))
    except UsageError as mixture:  # said, and no reason to call the training a mistake
        print(f"no table: {mixture}")
        return
    if len(sweep.points) > 1 or any(len(point.runs) > 1 for point in sweep.points):
        print("", *sweep_lines(sweep), sep="\n")


def sweep_lines(sweep: Sweep) -> Iterator[str]:
    """The table in aligned columns; a star marks the best row of each data set."""
    printed = print_sweep(sweep)
    heads = [" ", *printed.heads]
    body = [
        ["*" if row.cells[1].best else " ", *row.labels, *(cell.ours for cell in row.cells)]
        for group in printed.groups
        for row in group.rows
    ]
    widths = [max(map(len, column)) for column in zip(heads, *body, strict=True)]
    yield printed.caption.replace("**Bold**", "*")
    labels = len(printed.groups[0].rows[0].labels) + 1
    for row in [heads, *body]:
        cells = (
            f"{cell:<{width}}" if number < labels or number == len(heads) - 1 else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def print_sweep(sweep: Sweep, title: str = "Sweep", command: str = "", number: str = "sweep") -> PrintedTable:
    """The table: a row a point, with what varies, and mean, deviation and interval over its seeds."""
    best, keys = sweep.best(), columns(sweep)
    names = short_names(keys) | {"dataset.name": "data set", "arch.name": "network", "optim.name": "method"}
    rows = [PrintedRow([_label(point, key) for key in keys], _cells(point, point in best)) for point in sweep.points]
    runs = [run for point in sweep.points for run in point.runs]
    finished = sum(run.state == "finished" for run in runs)
    means = "mean, sample deviation and 95 % t interval over seeds"
    caption = f"Best {' or '.join(SCORES[unit] for unit in sweep.unit.split(' or '))} over training: {means}; last: "
    caption += "mean after the last epoch." + (" **Bold**: the best row." if best else "")
    return PrintedTable(
        number=number,
        title=title,
        caption=caption.replace("**Bold**", "Bold") if command else caption,
        markdown_caption=caption,
        heads=[*(names[key] for key in keys), *NUMBERS, "not finished"],
        alignment="l" * len(keys) + "c" * len(NUMBERS) + "l",
        groups=[RowGroup(rows)],
        progress=f"{finished} of {len(runs)} runs finished.",
        command=command,
        done=len(runs),
        planned=len(runs),
        unit="runs",
        csv=csv_text([_csv_row(point, point in best) for point in sweep.points]),
    )


def columns(sweep: Sweep) -> list[str]:
    """What the rows are named by: data set and network if they differ, the method, and what varies."""
    return [*(key for key in NETWORK if key in sweep.differing), "optim.name", *sweep.varied]


def sentence(points: Sequence[Point], over: Sequence[str], names: Sequence[str]) -> str:
    """``best optim.rho=0.2 for digits small_cnn sam: 96.90 [96.10, 97.70], n = 3``.

    Args:
        points: Those that differ in ``over`` alone; at least one has a finished run.
        over: Keys.
        names: What else the points are called by, beside data set, network and method.
    """
    (best,) = Sweep(tuple(points)).best() or [point for point in points if point.best.values][:1]
    values = " ".join(f"{key}={best.values[key]}" for key in over)
    fixed = [best.values[key] for key in NETWORK if key not in over]
    fixed += [method_name(best.settings)] * ("optim.name" not in over)
    fixed += [f"{key}={best.values[key]}" for key in names]
    interval = best.best.t_interval()
    ends = f" [{interval.low:.2f}, {interval.high:.2f}]" if interval else ""
    return f"best {values} for {' '.join(fixed)}: {best.best.mean:.2f}{ends}, n = {len(best.best.values)}"


def network_title(point: Point) -> str:
    """``Small CNN on Digits``."""
    return f"{arch_label(point.values['arch.name'])} on {dataset_label(point.values['dataset.name'])}"


def _label(point: Point, key: str) -> str:
    return method_name(point.settings) if key == "optim.name" else point.values[key]


def _cells(point: Point, best: bool) -> list[PrintedCell]:
    sample, interval = point.best, point.best.t_interval()
    lost = ", ".join(f"{point.states[state]} {state}" for state in LOST if point.states[state])
    texts = [
        str(len(sample.values)),
        _number(sample.mean),
        _number(sample.std),
        f"[{interval.low:.2f}, {interval.high:.2f}]" if interval else "–",
        _number(point.last.mean),
        lost,
    ]
    return [PrintedCell(text, best=best and number == 1) for number, text in enumerate(texts)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _csv_row(point: Point, best: bool) -> dict[str, object]:
    interval = point.best.t_interval()
    return {
        **{key: point.settings.get(key) for key in IDENTITY},
        **{key: point.settings.get(key) for key in point.values if key not in (*NETWORK, *METHOD)},
        "n": len(point.best.values),
        "best_mean": point.best.mean,
        "best_std": point.best.std,
        "best_low": interval.low if interval else None,
        "best_high": interval.high if interval else None,
        "last_mean": point.last.mean,
        "last_std": point.last.std,
        "is_best": best,
        **{state: point.states[state] for state in LOST},
    }
