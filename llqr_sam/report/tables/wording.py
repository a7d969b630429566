"""What a table says, before it is laid out: the lines of a cell, the caption, the notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple

from llqr_sam.data.registry import DATASETS as IMAGES
from llqr_sam.data.registry import info
from llqr_sam.report.tables.entries import Entry, EntryKind, Table
from llqr_sam.report.tables.paper_numbers import ARCHS, DATASETS, METHODS
from llqr_sam.report.tables.seed_statistics import Sample

METRICS = {"top1": "Test top-1 in percent", "val_bleu": "Validation BLEU (beam 5)"}
KINDS: dict[EntryKind, str] = {"best": "best over training", "last": "last epoch"}
OTHER: dict[EntryKind, EntryKind] = {"best": "last", "last": "best"}
DELTA = "Δ"
FLAT = "sharpness"
_SHARPNESS = {"hessian_top": "top", "hessian_trace": "trace", "m_sharpness": "m"}


def heading(table: Table) -> str:
    """``Table 2: CIFAR-100 standard benchmark``."""
    return f"Table {table.number}: {table.title}" if table.number.isdigit() else table.title


def caption(table: Table) -> str:
    """What the lines of the cells are; of those that the table has."""
    lines = {label for row in table.rows for entry in row for label in cell_lines(table, entry, row)}
    other = OTHER[table.kind]
    what = f"{METRICS[table.metric]}, {KINDS[table.kind]}"
    said = [f"{what}{_best_of(table)}: mean ± sample standard deviation (finished of planned seeds)."]
    said += partial_data(table)
    if other in lines:
        said.append(f'"{other}": {KINDS[other]}.')
    if DELTA in lines:
        baseline = METHODS.get(table.baseline, table.baseline)
        said.append(f"{DELTA}: mean difference to {baseline} over common seeds [95 % bootstrap interval].")
    if FLAT in lines:
        said.append(f'"{FLAT}": of the training loss at the end: top eigenvalue and trace of the Hessian, m-sharpness.')
    if any(len(entry.radii) > 1 for entry in table.entries):
        said.append("m-sharpness is left out where seeds measured it at different radii.")
    if "paper" in lines:
        said.append('"paper": the value printed in arXiv 2605.16134.')
    if any(entry.paper_is_outside for entry in table.entries):
        said.append("†: it is outside the 95 % t interval of our mean best.")
    return " ".join(said)


def partial_data(table: Table) -> list[str]:
    """A sentence for each data set that finished runs had fewer images of than there are."""
    said = []
    for name in dict.fromkeys(entry.cell.dataset for entry in table.entries if entry.cell.dataset in IMAGES):
        whole = info(name).whole
        found = {samples for entry in table.entries if entry.cell.dataset == name for samples in entry.samples}
        for samples in sorted(found, key=astuple):
            if samples.train < whole.train or samples.test < whole.test:
                of_test = f" of {whole.test:,}" * (samples.test < whole.test)
                trained = f"{samples.train:,} of {DATASETS[name]}'s {whole.train:,} images"
                said.append(f"Trained on {trained}, tested on {samples.test:,}{of_test}.")
    return said


def _best_of(table: Table) -> str:
    """`` (of 40 evaluations)``: what a best is the best of, where anything is finished."""
    counts = sorted({count for entry in table.entries for count in entry.evaluations})
    if not counts:
        return ""
    low, high = counts[0], counts[-1]
    best = "" if table.kind == "best" else "best "
    return f" ({best}of {low if low == high else f'{low} to {high}'} evaluation{'s' * (high != 1)})"


def progress(table: Table) -> str:
    """``3 of 15 runs finished, 1 diverged.``"""
    finished = sum(len(entry.finished) for entry in table.entries)
    planned = sum(entry.planned for entry in table.entries)
    lost = _lost(sum(entry.failed for entry in table.entries), sum(entry.diverged for entry in table.entries))
    return f"{finished} of {planned} runs finished{lost}."


def selected(table: Table) -> list[str]:
    """For each value of a hyper-parameter that the table selects, a sentence with its rows."""
    places: dict[str, list[str]] = {}
    for choice in dict.fromkeys(choice for entry in table.entries for choice in entry.choices):
        why = "selected by the baseline" if choice.origin == "selected" else "the protocol's, nothing selected"
        place = f"{DATASETS.get(choice.dataset, choice.dataset)} {ARCHS.get(choice.arch, choice.arch)}"
        places.setdefault(f"{choice.name} {choice.value:g} ({why})", []).append(place)
    return [f"{value}: {', '.join(rows)}." for value, rows in places.items()]


def cell_lines(table: Table, entry: Entry, row: Sequence[Entry]) -> dict[str, str]:
    """The lines of a cell by their labels; ours is the first and has none."""
    lines = {"": _ours(entry, table.kind)}
    other, difference = entry.top1(OTHER[table.kind]), table.difference(entry, row)
    if other.values:
        lines[OTHER[table.kind]] = _mean(other)
    if difference.values:
        lines[DELTA] = _signed(difference) + _fewer(difference, entry)
    if flat := ", ".join(_sharpness(entry)):
        lines[FLAT] = flat
    if entry.paper:
        lines["paper"] = f"{entry.paper.mean:.2f} ± {entry.paper.std:.2f}{' †' if entry.paper_is_outside else ''}"
    return lines


def _sharpness(entry: Entry) -> Iterator[str]:
    """``top 12.3``, ``trace 456``, ``m 0.0123``."""
    for name, sample in entry.sharpness().items():
        if sample.mean is not None:
            yield f"{_SHARPNESS[name]} {sample.mean:.3g}"


def _ours(entry: Entry, kind: EntryKind) -> str:
    """``81.82 ± 0.14 (5 of 5)``, ``81.80 (1 of 5, 1 failed, 1 diverged)``, ``0 of 5, 1 diverged`` or ``not run``."""
    lost = _lost(entry.failed, entry.diverged)
    counts = f"{len(entry.finished)} of {entry.planned}{lost}"
    if entry.finished:
        return f"{_mean(entry.top1(kind))} ({counts})"
    return counts if lost else "not run"


def _lost(failed: int, diverged: int) -> str:
    return (f", {failed} failed" if failed else "") + (f", {diverged} diverged" if diverged else "")


def _mean(sample: Sample) -> str:
    return f"{sample.mean:.2f}" + (f" ± {sample.std:.2f}" if sample.std is not None else "")


def _signed(difference: Sample) -> str:
    """``+0.69 [-0.05, +1.41]``."""
    interval = difference.bootstrap_interval()
    ends = f" [{_plus(interval.low)}, {_plus(interval.high)}]" if interval else ""
    return f"{_plus(difference.mean or 0.0)}{ends}"


def _plus(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # no -0.00


def _fewer(difference: Sample, entry: Entry) -> str:
    """How many seeds a difference is over, if not all that the cell has."""
    seeds = len(difference.values)
    return f" over {seeds} seed{'s' * (seeds != 1)}" if seeds < len(entry.finished) else ""
