"""Writes the page with all results: tables beside the paper's, figures, curves, and what has not been run.

The file contains its style, script, pictures and configurations, so it can be opened without a network. Equal results
and words give equal bytes.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.report.page.section import Section


def write_page(
    results: Path,
    sections: Sequence[Section],
    figures: Mapping[str, str],
    words: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write ``results/report/index.html``; returns the file.

    Args:
        results: Folder whose ``figures/`` holds the pictures.
        sections: The tables, in any order.
        figures: Number -> title. A figure without a picture is listed as not drawn.
        words: What the runs were started with.
        notes: Further lines for the list of what has not been run.
    """
    environment = Environment(
        loader=PackageLoader("llqr_sam.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html").render(
        sections=sorted(sections, key=lambda section: _order(section.table.number)),
        figures=[(number, title, _picture(number, results)) for number, title in figures.items()],
        notes=notes,
        words=shlex.join(words),
    )
    path = results / "report" / "index.html"
    with replacing(path) as file:
        file.write(text.encode())
    return path


def _picture(number: str, results: Path) -> str:
    """The PNG as a data URI; empty if the figure has not been drawn."""
    path = results / "figures" / f"figure_{int(number):02d}.png"
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.exists() else ""


def _order(number: str) -> tuple[bool, int, str]:
    """Sorts tables by number, named ones last."""
    return (not number.isdigit(), int(number) if number.isdigit() else 0, number)
