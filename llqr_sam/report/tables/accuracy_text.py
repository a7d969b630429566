"""Prints a table of trained networks: the lines of its cells, its caption and notes, and its CSV file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import astuple

from llqr_sam.data.registry import known
from llqr_sam.report.tables.accuracy_table import AccuracyTable, BestOrLast, CellResult
from llqr_sam.report.tables.labels import arch_label, dataset_label, method_label
from llqr_sam.report.tables.printed_table import PrintedCell, PrintedRow, PrintedTable, RowGroup, csv_text
from llqr_sam.report.tables.seed_statistics import Interval, Sample

SCORE_TEXT = {"top1": "Test top-1 in percent", "val_bleu": "Validation BLEU (beam 5)"}
KIND_TEXT: dict[BestOrLast, str] = {"best": "best over training", "last": "last epoch"}
OTHER: dict[BestOrLast, BestOrLast] = {"best": "last", "last": "best"}
BOLD = "highest mean of the row, where the interval of its difference to the baseline lies above 0 and no run diverged"
DELTA, FLAT = "Δ", "sharpness"  # labels of a cell's further lines, beside "best", "last" and "paper"
_SHARPNESS = {"hessian_top": "top", "hessian_trace": "trace", "m_sharpness": "m"}


def print_accuracy(table: AccuracyTable) -> PrintedTable:
    """The table as a reader sees it."""
    config, cells, kind = table.config, table.cells, table.kind
    noisy = any(result.cell.label_noise for result in cells)
    rows = []
    for row in table.rows:
        cell = row[0].cell
        labels = [dataset_label(cell.dataset), arch_label(cell.arch)] + [f"{cell.label_noise:g}"] * noisy
        rows.append(PrintedRow(labels, [_printed(result, table) for result in row]))
    heads = ["Data set", "Network"] + ["Label noise"] * noisy
    caption = _caption(table, {label for row in rows for cell in row.cells for label in cell.lines})
    planned, finished = sum(len(result.runs) for result in cells), sum(len(result.finished) for result in cells)
    failed, diverged = sum(result.failed for result in cells), sum(result.diverged for result in cells)
    return PrintedTable(
        number=config.number if table.scale.is_paper else f"{config.number}-{table.scale.name}",
        title=f"Table {config.number}: {config.title}" if config.number.isdigit() else config.title,
        caption=caption,
        markdown_caption=f"{caption} **Bold**: {BOLD}.",
        heads=[*heads, *(method_label(result.cell) for result in table.rows[0])],
        alignment="l" * len(heads) + "c" * len(table.rows[0]),
        groups=[RowGroup(rows)],
        progress=f"{finished} of {planned} runs finished{_lost(failed, diverged)}.",
        command=table.command,
        done=finished + diverged,
        planned=planned,
        unit="runs",
        csv=csv_text([_csv_row(table, result) for result in cells]),
        notes=list(_selected(table)),
        latex_lines=(OTHER[kind], DELTA, FLAT, "paper"),
    )


def _caption(table: AccuracyTable, labels: Collection[str]) -> str:
    """What the lines of the cells mean; ``labels`` are those of the further lines that its cells have."""
    other = OTHER[table.kind]
    said = list(score_caption(table))
    if other in labels:
        said.append(f'"{other}": {KIND_TEXT[other]}.')
    if DELTA in labels:
        names = dict.fromkeys(method_label(row[0].baseline.cell) for row in table.rows if row[0].baseline)
        said.append(f"{DELTA}: mean difference to {' or '.join(names)} over common seeds [95 % t interval].")
    said += flatness_caption(table)
    said += paper_caption(table)
    return " ".join(said)


def score_caption(table: AccuracyTable) -> Iterator[str]:
    """What the scores are, and on how much of the data."""
    what = f"{SCORE_TEXT[table.config.metric]}, {KIND_TEXT[table.kind]}{_best_of(table)}"
    yield f"{what}: mean ± sample standard deviation (finished of planned seeds)."
    yield from _partial_data(table)


def flatness_caption(table: AccuracyTable) -> Iterator[str]:
    """What was measured of flatness, if anything."""
    if numbers := sorted({number for result in table.cells for number in result.flatness_samples}):
        measured = f"{_range(numbers)} training samples"
        yield f'"{FLAT}": of the loss on {measured} at the end: top eigenvalue and trace of the Hessian, m-sharpness.'
    if any(len(result.radii) > 1 for result in table.cells):
        yield "m-sharpness is left out where seeds measured it at different radii."


def paper_caption(table: AccuracyTable) -> Iterator[str]:
    """Whose the paper's values are, if the table has some."""
    if any(result.paper for result in table.cells):
        yield '"paper": the value printed in arXiv 2605.16134.'
    if any(result.paper_is_outside for result in table.cells):
        yield "†: it is outside the 95 % t interval of our mean best."


def _best_of(table: AccuracyTable) -> str:
    """`` (of 40 evaluations)``: how many evaluations each best was chosen from. Empty if no run is finished."""
    counts = sorted({number for result in table.cells for number in result.evaluations})
    if not counts:
        return ""
    best = "" if table.kind == "best" else "best "
    return f" ({best}of {_range(counts)} evaluation{'s' * (counts[-1] != 1)})"


def _range(numbers: Sequence[int]) -> str:
    """``40``, or ``6 to 40``, of numbers in rising order."""
    return f"{numbers[0]:,}" if numbers[0] == numbers[-1] else f"{numbers[0]:,} to {numbers[-1]:,}"


def _partial_data(table: AccuracyTable) -> Iterator[str]:
    """A sentence for each number of images below the whole data set's that finished runs used."""
    for name in dict.fromkeys(result.cell.dataset for result in table.cells):
        if (described := known(name)) is None:
            continue
        whole = described.whole
        runs = [run for result in table.cells if result.cell.dataset == name for run in result.finished.values()]
        for samples in sorted({run.samples for run in runs if run.samples}, key=astuple):  # older records have none
            if samples.train < whole.train or samples.test < whole.test:
                of_test = f" of {whole.test:,}" * (samples.test < whole.test)
                trained = f"{samples.train:,} of {dataset_label(name)}'s {whole.train:,} images"
                yield f"Trained on {trained}, tested on {samples.test:,}{of_test}."


def _selected(table: AccuracyTable) -> Iterator[str]:
    """For each value of a hyper-parameter that the table selects, a sentence with its rows."""
    rows: dict[str, list[str]] = {}
    for choice in dict.fromkeys(choice for result in table.cells for choice in result.runs[0].choices):
        why = "selected by the baseline" if choice.origin == "selected" else "the protocol's, nothing selected"
        row = f"{dataset_label(choice.dataset)} {arch_label(choice.arch)}"
        rows.setdefault(f"{choice.name} {choice.value:g} ({why})", []).append(row)
    return (f"{value}: {', '.join(names)}." for value, names in rows.items())


def _printed(result: CellResult, table: AccuracyTable) -> PrintedCell:
    kind, lines = table.kind, dict[str, str]()
    if (other := result.scores(OTHER[kind])).values:
        lines[OTHER[kind]] = mean_text(other)
    if (difference := result.difference(kind)).values:
        lines[DELTA] = difference_text(difference) + _fewer_seeds(result, difference)
    if flat := flatness_text(result):
        lines[FLAT] = flat
    if result.paper:
        lines["paper"] = f"{result.paper.mean:.2f} ± {result.paper.std:.2f}" + " †" * bool(result.paper_is_outside)
    return PrintedCell(ours_text(result, kind), lines, table.is_best(result))


def difference_text(difference: Sample) -> str:
    """``+2.07 [+1.55, +2.58]``: mean and t interval; without the interval of a single seed."""
    interval = difference.t_interval()
    ends = f" [{signed(interval.low)}, {signed(interval.high)}]" if interval else ""
    return f"{signed(difference.mean or 0.0)}{ends}"


def _fewer_seeds(result: CellResult, difference: Sample) -> str:
    seeds = len(difference.values)
    return f" over {seeds} seed{'s' * (seeds != 1)}" if seeds < len(result.finished) else ""


def flatness_text(result: CellResult) -> str:
    """``top 12.3, trace 1,234, m 0.0789``; empty if it was not measured."""
    flat = [(_SHARPNESS[name], measured.mean) for name, measured in result.sharpness().items()]
    return ", ".join(
        f"{name} {mean:,.0f}" if abs(mean) >= 1000 else f"{name} {mean:.3g}" for name, mean in flat if mean is not None
    )


def ours_text(result: CellResult, kind: BestOrLast) -> str:
    """``81.82 ± 0.14 (5 of 5)``, ``81.80 (1 of 5, 1 failed, 1 diverged)``, ``0 of 5, 1 diverged`` or ``not run``."""
    lost = _lost(result.failed, result.diverged)
    counts = f"{len(result.finished)} of {len(result.runs)}{lost}"
    if result.finished:
        return f"{mean_text(result.scores(kind))} ({counts})"
    return counts if lost else "not run"


def _lost(failed: int, diverged: int) -> str:
    return (f", {failed} failed" if failed else "") + (f", {diverged} diverged" if diverged else "")


def mean_text(sample: Sample) -> str:
    """``81.82 ± 0.14``: mean and sample standard deviation."""
    return f"{sample.mean:.2f}" + (f" ± {sample.std:.2f}" if sample.std is not None else "")


def signed(value: float) -> str:
    """``+2.07``."""
    return f"{round(value, 2) + 0.0:+.2f}"  # no -0.00


def _csv_row(table: AccuracyTable, result: CellResult) -> dict[str, object]:
    """One line a cell: the names as on the command line, empty where there is no number."""
    cell, paper, outside = result.cell, result.paper, result.paper_is_outside
    ours, best, last = result.scores(table.kind), result.scores("best"), result.scores("last")
    difference, baseline = result.difference(table.kind), result.baseline
    return {
        "table": table.config.number,
        "dataset": cell.dataset,
        "arch": cell.arch,
        "label_noise": cell.label_noise,
        "method": cell.method,
        "geometry": cell.geometry,
        "n": len(ours.values),
        "mean": _number(ours.mean),
        "std": _number(ours.std),
        "paper_mean": f"{paper.mean:.2f}" if paper else "",
        "paper_std": f"{paper.std:.2f}" if paper else "",
        "planned": len(result.runs),
        "failed": result.failed,
        "diverged": result.diverged,
        "entry": table.kind,  # of mean and std: best or last
        **_ends("mean", ours.t_interval()),
        "best_mean": _number(best.mean),
        "best_std": _number(best.std),
        "best_epoch": _number(result.epochs("best").mean),  # mean over seeds
        "last_mean": _number(last.mean),
        "last_std": _number(last.std),
        "last_epoch": _number(result.epochs("last").mean),
        "baseline": baseline.cell.method if baseline else "",
        "common_seeds": len(difference.values) if baseline else "",
        "difference": _number(difference.mean),  # to the baseline, mean over common seeds
        **_ends("difference", difference.bootstrap_interval()),  # difference_t_low and _high: Student's
        "paper_outside": "" if outside is None else "yes" if outside else "no",  # of the t interval of best_mean
        **{name: _number(sample.mean) for name, sample in result.sharpness().items()},  # means over seeds
        "best_of": ",".join(map(str, sorted(result.evaluations))),  # evaluations, 20,40 if seeds differ
        "selected": "; ".join(f"{choice.name}={choice.value:g} ({choice.origin})" for choice in result.runs[0].choices),
        **_ends("difference_t", difference.t_interval()),
        "is_best": table.is_best(result),  # bold in table.md
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4) + 0.0:.4f}"  # no -0.0000


def _ends(name: str, interval: Interval | None) -> dict[str, str]:
    """The ends of a 95 % interval."""
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {f"{name}_low": _number(low), f"{name}_high": _number(high)}
