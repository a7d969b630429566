"""A table as a reader sees it: what every cell says, and the table as Markdown and LaTeX.

Every table is first made into a ``PrintedTable``; the Markdown, LaTeX and CSV files and the page are all written from
it. Equal tables give equal bytes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.suite.config.schema import FORMATS

TIMES = "\N{MULTIPLICATION SIGN}"
_ESCAPES = {
    "%": r"\%",
    "_": r"\_",
    "^Δ": r"$^\Delta$",
    "Δ": r"$\Delta$",
    "±": r"$\pm$",
    TIMES: r"$\times$",
    "†": r"$^\dagger$",
}


@dataclass(frozen=True)
class PrintedCell:
    """What a cell says."""

    ours: str  # our value, or why there is none
    lines: Mapping[str, str] = field(default_factory=dict)  # label, such as "last" or "paper" -> further line
    best: bool = False  # printed in bold
    difference: str = ""  # ours minus the paper's, signed; the page shows it
    tone: str = ""  # of the difference: above, below or same, as the paper's value lies to our interval


@dataclass(frozen=True)
class PrintedRow:
    """Labels, such as the data set and the network, and cells."""

    labels: Sequence[str]
    cells: Sequence[PrintedCell]


@dataclass(frozen=True)
class RowGroup:
    """Rows under a heading of their own. Most tables have one group without a heading."""

    rows: Sequence[PrintedRow]
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class PrintedTable:
    """A table ready to be written."""

    number: str  # as in table=; 2-small is the twin of 2 at scale=small
    title: str  # with the number: Table 2: CIFAR-100 standard benchmark
    caption: str  # what the cells say
    heads: Sequence[str]  # of the label columns, then of the cells
    alignment: str  # LaTeX letter of each column
    groups: Sequence[RowGroup]
    progress: str  # how much is done, in a sentence
    command: str  # that does the rest
    done: int  # number of units
    planned: int
    unit: str  # runs, networks or rows
    csv: str  # the numbers behind the table, as the text of a CSV file
    notes: Sequence[str] = ()  # sentences below the table
    latex_lines: Sequence[str] = ()  # labels of the cells' further lines that LaTeX prints, in order
    markdown_caption: str = ""  # the caption in Markdown, where it differs


def write_table(table: PrintedTable, output: Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write ``output`` with the suffix of each format, atomically; returns the paths."""
    paths = [output.with_name(f"{output.name}.{suffix}") for suffix in formats]
    for path in paths:
        with replacing(path) as file:
            file.write(RENDERERS[path.suffix[1:]](table).encode())
    return paths


def to_markdown(table: PrintedTable) -> str:
    """The title, the caption, the rows, how much is done and by which command, and the notes."""
    lines = [f"# {table.title}", "", table.markdown_caption or table.caption, ""]
    for group in table.groups:
        if group.title:
            lines += [f"## {group.title}", "", f"{group.note[0].upper()}{group.note[1:]}.", ""]
        if group.rows:
            rows = ([*row.labels, *map(_markdown, row.cells)] for row in group.rows)
            lines += [*markdown_rows(table.heads, rows), ""]
    lines += [f"{table.progress} Command: `{table.command}`.", ""]
    lines += [f"- {note}" for note in table.notes] + [""] * bool(table.notes)
    return "\n".join(lines)


def markdown_rows(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def to_latex(table: PrintedTable) -> str:
    """A ``table`` environment for booktabs; each further line of the cells is a row of its own."""
    caption = latex(" ".join([f"{table.title}.", table.caption, *table.notes]))
    lines = [r"\begin{table}", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{table.alignment}}}", r"\toprule"]
    lines.append(_latex_row(map(latex, table.heads)))
    for group in table.groups:
        lines.append(r"\midrule")
        if group.title:
            title = latex(f"{group.title}: {group.note}")
            lines += [rf"\multicolumn{{{len(table.heads)}}}{{l}}{{{title}}} \\", r"\midrule"]
        for row in group.rows:
            ours = (rf"\textbf{{{latex(cell.ours)}}}" if cell.best else latex(cell.ours) for cell in row.cells)
            lines.append(_latex_row([*map(latex, row.labels), *ours]))
            for label in table.latex_lines:
                if any(label in cell.lines for cell in row.cells):
                    further = (latex(cell.lines.get(label, "")) for cell in row.cells)
                    lines.append(_latex_row([*[""] * (len(row.labels) - 1), latex(label), *further]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


RENDERERS = {"md": to_markdown, "csv": lambda table: table.csv, "tex": to_latex}


def csv_text(rows: Sequence[Mapping[str, object]], line_end: str = "\n") -> str:
    """Rows with the same keys as CSV; ``None`` is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator=line_end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def latex(text: str) -> str:
    """Plain text for LaTeX: special signs escaped, signed numbers in math mode."""
    for plain, escaped in _ESCAPES.items():
        text = text.replace(plain, escaped)
    return re.sub(r"(?<!\w)[+-]\d+\.\d+", r"$\g<0>$", text)


def _markdown(cell: PrintedCell) -> str:
    ours = f"**{cell.ours}**" if cell.best else cell.ours
    return "<br>".join([ours, *(f"{label} {line}" for label, line in cell.lines.items())])


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
