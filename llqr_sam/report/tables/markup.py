"""Rows of tables in Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable


def markdown_row(cells: Iterable[str]) -> str:
    """``| a | b |``."""
    return f"| {' | '.join(cells)} |"


def markdown_head(heads: Iterable[str]) -> list[str]:
    """The first row, and the line under it."""
    heads = list(heads)
    return [markdown_row(heads), markdown_row(["---"] * len(heads))]


def latex_row(cells: Iterable[str]) -> str:
    r"""``a & b \\``."""
    return " & ".join(cells) + r" \\"


def latex(text: str) -> str:
    """Plain text with what LaTeX would read otherwise escaped."""
    signs = {"%": r"\%", "_": r"\_", "^Δ": r"$^\Delta$", "±": r"$\pm$"}
    for plain, escaped in signs.items():
        text = text.replace(plain, escaped)
    return text
