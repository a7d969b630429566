"""A table as Markdown, CSV and LaTeX. Equal plans, records and noted failures give equal bytes.

A cell has a line for our number and, where there is something to say, one each for the other epoch's, for the
difference to the baseline and for the paper's.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.report.tables.entries import Entry, Table
from llqr_sam.report.tables.markup import latex_row, markdown_head, markdown_row
from llqr_sam.report.tables.paper_numbers import ARCHS, DATASETS, method_label
from llqr_sam.report.tables.seed_statistics import Interval
from llqr_sam.report.tables.wording import DELTA, FLAT, OTHER, caption, cell_lines, heading, progress, selected

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
    "planned",
    "failed",
    "diverged",
    "entry",  # of mean and std: best or last
    "mean_low",  # 95 % t interval of the mean
    "mean_high",
    "best_mean",
    "best_std",
    "best_epoch",  # mean over seeds
    "last_mean",
    "last_std",
    "last_epoch",
    "baseline",
    "common_seeds",
    "difference",  # to the baseline, mean over common seeds
    "difference_low",  # 95 % bootstrap interval
    "difference_high",
    "paper_outside",  # yes or no: whether paper_mean is outside the t interval of best_mean
    "hessian_top",  # at the end of training, means over the seeds that measured sharpness: largest eigenvalue
    "hessian_trace",
    "m_sharpness",
    "best_of",  # evaluations that a best is the best of; 20,40 where they differ between seeds
    "selected",  # what the table selects: weight_decay=0.0005 (default)
)

_ESCAPES = {
    "%": r"\%",
    "_": r"\_",
    "^Δ": r"$^\Delta$",
    "Δ": r"$\Delta$",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
}


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
    """A heading, what the cells mean, the table, the command that fills it, and what was selected."""
    header = [*_row_heads(table), *map(method_label, (entry.cell for entry in table.rows[0]))]
    lines = [
        f"# {heading(table)}",
        "",
        f"{caption(table)} **Bold**: best of the row among ours.",
        "",
        *markdown_head(header),
    ]
    for row in table.rows:
        cells = [_markdown_cell(table, entry, row) for entry in row]
        lines.append(markdown_row([*_row_labels(table, row[0]), *cells]))
    lines += ["", f"{progress(table)} Command: `{table.command}`.", ""]
    if notes := selected(table):
        lines += [*(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def to_csv(table: Table) -> str:
    """One line a cell, the names as on the command line, empty where there is no number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        writer.writerows(_csv_cell(table, entry, row) for entry in row)
    return text.getvalue()


def to_latex(table: Table) -> str:
    """A ``table`` environment for booktabs, methods in columns, each line of the cells in a line of its own."""
    heads = [*_row_heads(table), *map(method_label, (entry.cell for entry in table.rows[0]))]
    lines = [
        r"\begin{table}",
        rf"\caption{{{_latex(' '.join([f'{heading(table)}.', caption(table), *selected(table)]))}}}",
        rf"\begin{{tabular}}{{{'l' * len(_row_heads(table))}{'c' * len(table.rows[0])}}}",
        r"\toprule",
        latex_row(map(_latex, heads)),
        r"\midrule",
    ]
    for row in table.rows:
        lines += _latex_lines(table, row)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


RENDERERS: dict[str, Callable[[Table], str]] = {"md": to_markdown, "csv": to_csv, "tex": to_latex}


def _row_heads(table: Table) -> list[str]:
    return ["Data set", "Network"] + ["Label noise"] * _noisy(table)


def _row_labels(table: Table, entry: Entry) -> list[str]:
    cell = entry.cell
    names = [DATASETS.get(cell.dataset, cell.dataset), ARCHS.get(cell.arch, cell.arch)]
    return names + [f"{cell.label_noise:g}"] * _noisy(table)


def _noisy(table: Table) -> bool:
    return any(entry.cell.label_noise for entry in table.entries)


def _is_best(table: Table, entry: Entry, row: Sequence[Entry]) -> bool:
    mean, best = entry.top1(table.kind).mean, table.best(row)
    return best is not None and mean is not None and round(mean, 2) == best


def _markdown_cell(table: Table, entry: Entry, row: Sequence[Entry]) -> str:
    ours, *others = (f"{label} {line}".strip() for label, line in cell_lines(table, entry, row).items())
    return "<br>".join([f"**{ours}**" if _is_best(table, entry, row) else ours, *others])


def _csv_cell(table: Table, entry: Entry, row: Sequence[Entry]) -> dict[str, object]:
    """A value for each of ``COLUMNS``."""
    cell, paper, ours, outside = entry.cell, entry.paper, entry.top1(table.kind), entry.paper_is_outside
    best, last, difference = entry.top1("best"), entry.top1("last"), table.difference(entry, row)
    mean_ends, difference_ends = _ends(ours.t_interval()), _ends(difference.bootstrap_interval())
    has_baseline = table.baseline_of(row) is not None
    return {
        "table": table.number,
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
        "planned": entry.planned,
        "failed": entry.failed,
        "diverged": entry.diverged,
        "entry": table.kind,
        "mean_low": mean_ends[0],
        "mean_high": mean_ends[1],
        "best_mean": _number(best.mean),
        "best_std": _number(best.std),
        "best_epoch": _number(entry.epochs("best").mean),
        "last_mean": _number(last.mean),
        "last_std": _number(last.std),
        "last_epoch": _number(entry.epochs("last").mean),
        "baseline": table.baseline if has_baseline else "",
        "common_seeds": len(difference.values) if has_baseline else "",
        "difference": _number(difference.mean),
        "difference_low": difference_ends[0],
        "difference_high": difference_ends[1],
        "paper_outside": "" if outside is None else "yes" if outside else "no",
        **{name: _number(sample.mean) for name, sample in entry.sharpness().items()},
        "best_of": ",".join(map(str, sorted(entry.evaluations))),
        "selected": "; ".join(f"{choice.name}={choice.value:g} ({choice.origin})" for choice in entry.choices),
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4) + 0.0:.4f}"  # no -0.0000


def _ends(interval: Interval | None) -> tuple[str, str]:
    return (_number(interval.low), _number(interval.high)) if interval else ("", "")


def _latex_lines(table: Table, row: Sequence[Entry]) -> list[str]:
    """A row of the table: a line for each label that any of its cells has."""
    cells = [{label: _latex(line) for label, line in cell_lines(table, entry, row).items()} for entry in row]
    for entry, cell in zip(row, cells, strict=True):
        if _is_best(table, entry, row):
            cell[""] = rf"\textbf{{{cell['']}}}"
    heads = [_latex(label) for label in _row_labels(table, row[0])]
    lines = [latex_row([*heads, *(cell[""] for cell in cells)])]
    for label in (OTHER[table.kind], DELTA, FLAT, "paper"):
        if any(label in cell for cell in cells):
            heads = [*[""] * (len(heads) - 1), _latex(label)]
            lines.append(latex_row([*heads, *(cell.get(label, "") for cell in cells)]))
    return lines


def _latex(text: str) -> str:
    """Escaped, signed numbers in math mode."""
    for plain, escaped in _ESCAPES.items():
        text = text.replace(plain, escaped)
    return re.sub(r"[+-]\d+\.\d+", r"$\g<0>$", text)
