"""A table as a reader sees it: what every cell says, and the table as Markdown and LaTeX.

Every table is first made into a ``PrintedTable``; the Markdown, LaTeX and CSV files and the page are all written from
it. Equal tables give equal bytes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llqr_sam.engine.records.atomic import replacing

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
    """What a cell says.

    Args:
        ours: Our value, or why there is none.
        lines: Label -> further line of the cell, such as ``last``, ``Δ`` and ``paper``.
        best: Whether ours is the best of its row. It is then bold.
        difference: Ours minus the paper's, signed. Only the page shows it.
        tone: Colour on the page: ``above`` or ``below`` the paper's value, ``same`` or nothing; followed by `` sure``
            where the paper's value is outside our interval.
        facts: Lines that the page shows when the cell is pointed at.
        source: Index of the page's source that the cell is made from; ``None`` if there is none.
    """

    ours: str
    lines: Mapping[str, str] = field(default_factory=dict)
    best: bool = False
    difference: str = ""
    tone: str = ""
    facts: tuple[str, ...] = ()
    source: int | None = None


@dataclass(frozen=True)
class PrintedRow:
    """Labels, such as the data set and the network, and cells."""

    labels: Sequence[str]
    cells: Sequence[PrintedCell]


@dataclass(frozen=True)
class Block:
    """Rows under a heading of their own. Most tables have one block without a heading."""

    rows: Sequence[PrintedRow]
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class PrintedTable:
    """A table ready to be written.

    Args:
        number: As in ``table=``.
        title: With the number: ``Table 2: CIFAR-100 standard benchmark``.
        caption: What the cells say.
        heads: Of the columns: those of the labels, then those of the cells.
        alignment: LaTeX letter of each column.
        blocks: The rows.
        progress: How much of the table is done, in a sentence.
        command: Command line that does the rest.
        done: Number of ``unit`` that are done.
        planned: Number of ``unit`` in all.
        unit: What is counted: runs, networks or rows.
        csv: The numbers behind the table, as the text of a CSV file.
        notes: Sentences below the table.
        latex_lines: Labels of the cells' further lines that LaTeX prints, in order.
        markdown_caption: The caption in Markdown, where it differs.
    """

    number: str
    title: str
    caption: str
    heads: Sequence[str]
    alignment: str
    blocks: Sequence[Block]
    progress: str
    command: str
    done: int
    planned: int
    unit: str
    csv: str
    notes: Sequence[str] = ()
    latex_lines: Sequence[str] = ()
    markdown_caption: str = ""


def write_table(table: PrintedTable, output: Path, formats: Iterable[str] = ("md", "csv", "tex")) -> list[Path]:
    """Write ``output`` with the suffix of each format, atomically; returns the paths."""
    paths = []
    for suffix in formats:
        paths.append(output.with_name(f"{output.name}.{suffix}"))
        with replacing(paths[-1]) as file:
            file.write(RENDERERS[suffix](table).encode())
    return paths


def to_markdown(table: PrintedTable) -> str:
    """The title, the caption, the rows, how much is done and by which command, and the notes."""
    lines = [f"# {table.title}", "", table.markdown_caption or table.caption, ""]
    for block in table.blocks:
        if block.title:
            lines += [f"## {block.title}", "", f"{block.note[0].upper()}{block.note[1:]}.", ""]
        if block.rows:
            lines += [
                *markdown_rows(table.heads, ([*row.labels, *map(_markdown, row.cells)] for row in block.rows)),
                "",
            ]
    lines += [f"{table.progress} Command: `{table.command}`.", ""]
    lines += [f"- {note}" for note in table.notes] + [""] * bool(table.notes)
    return "\n".join(lines)


def markdown_rows(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table."""
    heads = list(heads)
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def to_latex(table: PrintedTable) -> str:
    """A ``table`` environment for booktabs; each further line of the cells is a row of its own."""
    caption = latex(" ".join([f"{table.title}.", table.caption, *table.notes]))
    lines = [r"\begin{table}", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{table.alignment}}}", r"\toprule"]
    lines.append(_latex_row(map(latex, table.heads)))
    for block in table.blocks:
        lines.append(r"\midrule")
        if block.title:
            title = latex(f"{block.title}: {block.note}")
            lines += [rf"\multicolumn{{{len(table.heads)}}}{{l}}{{{title}}} \\", r"\midrule"]
        for row in block.rows:
            ours = [rf"\textbf{{{latex(cell.ours)}}}" if cell.best else latex(cell.ours) for cell in row.cells]
            lines.append(_latex_row([*map(latex, row.labels), *ours]))
            for label in table.latex_lines:
                if any(label in cell.lines for cell in row.cells):
                    further = (latex(cell.lines.get(label, "")) for cell in row.cells)
                    lines.append(_latex_row([*[""] * (len(row.labels) - 1), latex(label), *further]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


RENDERERS: dict[str, Callable[[PrintedTable], str]] = {
    "md": to_markdown,
    "csv": lambda table: table.csv,
    "tex": to_latex,
}


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
