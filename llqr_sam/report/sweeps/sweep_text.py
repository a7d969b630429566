"""A sweep as a reader sees it: the lines after ``python train.py -m``, a table, and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llqr_sam.report.sweeps.sweep import NONE, Point, Sweep, best_of
from llqr_sam.report.tables.labels import arch_label, dataset_label
from llqr_sam.report.tables.printed_table import PrintedCell, PrintedRow, PrintedTable, RowGroup, csv_text
from llqr_sam.suite.plan.labels import IDENTITY, METHOD, NETWORK, short_names

SCORES = {"%": "test top-1 in percent", "BLEU": "validation BLEU"}
NUMBERS = ("n", "best", "deviation", "95 % interval", "last")
LOST = ("diverged", "failed", "running", "missing")


def sweep_lines(sweep: Sweep) -> Iterator[str]:
    """The table in aligned columns; a star marks the best row of each data set."""
    by_dataset = [[point for point in points if point.best.values] for points in _by_dataset(sweep).values()]
    best = [best_of(points) for points in by_dataset if len(points) > 1]
    yield from table_lines(print_sweep(sweep, [point for point in best if point is not None]))


def table_lines(printed: PrintedTable) -> Iterator[str]:
    """A table of a sweep in aligned columns, with its caption."""
    heads = [" ", *printed.heads]
    body = [
        ["*" if row.cells[1].best else " ", *row.labels, *(cell.ours for cell in row.cells)]
        for group in printed.groups
        for row in group.rows
    ]
    widths = [max(map(len, column)) for column in zip(heads, *body, strict=True)]
    yield printed.caption + (" *: the best row." if any(row[0] == "*" for row in body) else "")
    labels = len(printed.groups[0].rows[0].labels) + 1
    for row in [heads, *body]:
        cells = (
            f"{cell:<{width}}" if number < labels or number == len(heads) - 1 else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def print_sweep(sweep: Sweep, best: Sequence[Point], title: str = "Sweep", command: str = "") -> PrintedTable:
    """The table: a row a point, with what varies, and mean, deviation and interval over its seeds.

    Args:
        sweep: The points, in the order of the rows.
        best: Those that are marked.
        title: Its heading.
        command: That makes it.
    """
    keys = columns(sweep)
    names = short_names(keys) | {"dataset.name": "data set", "arch.name": "network", "optim.name": "method"}
    rows = [PrintedRow([point.named(key) for key in keys], _cells(point, point in best)) for point in sweep.points]
    runs = [run for point in sweep.points for run in point.runs]
    finished = sum(run.state == "finished" for run in runs)
    means = "mean, sample deviation and 95 % t interval over seeds"
    caption = f"Best {' or '.join(SCORES[unit] for unit in sweep.unit.split(' or '))} over training: {means}; last: "
    caption += "mean after the last epoch."
    return PrintedTable(
        number="sweep-" + "-".join(sweep.points[0].values[key] for key in NETWORK),
        title=title,
        caption=caption,
        markdown_caption=caption + " **Bold**: the best row." * bool(best),
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


def best_sentences(sweep: Sweep, over: Sequence[str]) -> Iterator[str]:
    """``best optim.rho=0.2 for digits small_cnn sam: 96.90 [96.10, 97.70], n = 3``, for each series."""
    for points in sweep.series(over).values():
        if best := best_of(points):
            values = " ".join(f"{key.removesuffix('.name')}={best.named(key)}" for key in over)
            fixed = " ".join(
                [*(best.named(key) for key in (*NETWORK, "optim.name") if key not in over), *_rest(best, over)]
            )
            interval = best.best.t_interval()
            ends = f" [{interval.low:.2f}, {interval.high:.2f}]" if interval else ""
            yield f"best {values} for {fixed}: {best.best.mean:.2f}{ends}, n = {len(best.best.values)}"


def _rest(point: Point, over: Sequence[str]) -> Iterator[str]:
    """What varies beside the keys ``over``."""
    return (f"{key}={value}" for key, value in point.values.items() if key not in (*IDENTITY, *over) and value != NONE)


def _by_dataset(sweep: Sweep) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in sweep.points:
        found.setdefault(point.values["dataset.name"], []).append(point)
    return found


def network_title(point: Point) -> str:
    """``Small CNN on Digits``."""
    return f"{arch_label(point.values['arch.name'])} on {dataset_label(point.values['dataset.name'])}"


def _cells(point: Point, best: bool) -> list[PrintedCell]:
    sample, interval = point.best, point.best.t_interval()
    lost = ", ".join(f"{point.states[state]} {state}" for state in LOST if point.states[state])
    texts = [
        str(len(sample.values)),
        _number(sample.mean),
        _number(sample.std),
        f"[{interval.low:.2f}, {interval.high:.2f}]" if interval else "-",
        _number(point.last.mean),
        lost,
    ]
    return [PrintedCell(text, best=best and number == 1) for number, text in enumerate(texts)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


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
