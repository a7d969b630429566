"""A table as Markdown, CSV and LaTeX. The text depends on plan and records alone, so equal records give equal bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path

from llqr_sam.engine.atomic import replacing
from llqr_sam.report.entries import Entry, Table
from llqr_sam.report.paper import ARCHS, DATASETS, method_label

COLUMNS = (
    "table",
    "dataset",
    "arch",
    "label_noise",
    "method",
    "geometry",
    "n",
    "mean",
    "std",
    "paper_mean",
    "paper_std",
)

_METRICS = {"top1": "Test top-1 in percent", "val_bleu": "Validation BLEU (beam 5)"}
_KINDS = {"best": "best over training", "last": "last epoch"}


def write_table(table: Table, output: Path, formats: list[str]) -> list[Path]:
    """Write ``output`` with each suffix of ``formats`` (md, csv, tex), atomically.

    Returns:
        The paths written.
    """
    paths = [output.with_name(f"{output.name}.{suffix}") for suffix in formats]
    for path, suffix in zip(paths, formats, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(RENDERERS[suffix](table).encode())
    return paths


def to_markdown(table: Table) -> str:
    """A heading, what the cells mean, the table, and the command that fills it."""
    header = [*_row_heads(table), *map(method_label, (entry.cell for entry in table.rows[0]))]
    lines = [
        f"# {_heading(table)}",
        "",
        f"{_caption(table)} **Bold**: best of the row among ours.",
        "",
        _markdown_row(header),
        _markdown_row(["---"] * len(header)),
    ]
    for row in table.rows:
        best = table.best(row)
        cells = [_markdown_cell(entry, best) for entry in row]
        lines.append(_markdown_row([*_row_labels(table, row[0]), *cells]))
    lines += ["", f"{_progress(table)} Command: `{table.command}`.", ""]
    return "\n".join(lines)


def to_csv(table: Table) -> str:
    """One line a cell, the names as on the command line, empty where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry in table.entries:
        cell, paper = entry.cell, entry.paper
        names = [table.number, cell.dataset, cell.arch, cell.label_noise, cell.method, cell.geometry or ""]
        ours = ["" if number is None else f"{number:.4f}" for number in (entry.mean, entry.std)]
        theirs = [f"{paper.mean:.2f}", f"{paper.std:.2f}"] if paper else ["", ""]
        writer.writerow([*names, len(entry.values), *ours, *theirs])
    return text.getvalue()


def to_latex(table: Table) -> str:
    """A ``table`` environment for booktabs, methods in columns, the paper's value in a second line of each row."""
    heads = [*_row_heads(table), *map(method_label, (entry.cell for entry in table.rows[0]))]
    lines = [
        r"\begin{table}",
        rf"\caption{{{_latex(_heading(table))}. {_latex(_caption(table))}}}",
        rf"\begin{{tabular}}{{{'l' * len(_row_heads(table))}{'c' * len(table.rows[0])}}}",
        r"\toprule",
        _latex_row(map(_latex, heads)),
        r"\midrule",
    ]
    for row in table.rows:
        best = table.best(row)
        labels = [_latex(label) for label in _row_labels(table, row[0])]
        lines.append(_latex_row([*labels, *(_latex_cell(entry, best) for entry in row)]))
        if any(entry.paper for entry in row):
            papers = [rf"{entry.paper.mean:.2f} $\pm$ {entry.paper.std:.2f}" if entry.paper else "" for entry in row]
            lines.append(_latex_row([*[""] * (len(labels) - 1), "paper", *papers]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


RENDERERS: dict[str, Callable[[Table], str]] = {"md": to_markdown, "csv": to_csv, "tex": to_latex}


def _heading(table: Table) -> str:
    return f"Table {table.number}: {table.title}" if table.number.isdigit() else table.title


def _caption(table: Table) -> str:
    paper = ' "paper": the value printed in arXiv 2605.16134.' if any(entry.paper for entry in table.entries) else ""
    what = f"{_METRICS[table.metric]}, {_KINDS[table.kind]}"
    return f"{what}: mean ± sample standard deviation (number of seeds).{paper}"


def _progress(table: Table) -> str:
    finished = sum(len(entry.values) for entry in table.entries)
    diverged = sum(entry.diverged for entry in table.entries)
    planned = sum(entry.planned for entry in table.entries)
    return f"{finished} of {planned} runs finished{f', {diverged} diverged' if diverged else ''}."


def _row_heads(table: Table) -> list[str]:
    return ["Data set", "Network"] + ["Label noise"] * _noisy(table)


def _row_labels(table: Table, entry: Entry) -> list[str]:
    cell = entry.cell
    names = [DATASETS.get(cell.dataset, cell.dataset), ARCHS.get(cell.arch, cell.arch)]
    return names + [f"{cell.label_noise:g}"] * _noisy(table)


def _noisy(table: Table) -> bool:
    return any(entry.cell.label_noise for entry in table.entries)


def _ours(entry: Entry, plus_minus: str) -> str:
    """``81.82 ± 0.14 (5)``, ``diverged (3)`` or ``not run``."""
    if entry.mean is None:
        return f"diverged ({entry.diverged})" if entry.diverged else "not run"
    spread = f" {plus_minus} {entry.std:.2f}" if entry.std is not None else ""
    lost = f", {entry.diverged} diverged" if entry.diverged else ""
    return f"{entry.mean:.2f}{spread} ({len(entry.values)}{lost})"


def _is_best(entry: Entry, best: float | None) -> bool:
    return best is not None and entry.mean is not None and round(entry.mean, 2) == best


def _markdown_cell(entry: Entry, best: float | None) -> str:
    ours = _ours(entry, "±")
    ours = f"**{ours}**" if _is_best(entry, best) else ours
    return f"{ours}<br>paper {entry.paper.mean:.2f} ± {entry.paper.std:.2f}" if entry.paper else ours


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _latex_cell(entry: Entry, best: float | None) -> str:
    ours = _ours(entry, r"$\pm$")
    return rf"\textbf{{{ours}}}" if _is_best(entry, best) else ours


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex(text: str) -> str:
    for plain, escaped in (("%", r"\%"), ("_", r"\_"), ("^Δ", r"$^\Delta$"), ("±", r"$\pm$")):
        text = text.replace(plain, escaped)
    return text
