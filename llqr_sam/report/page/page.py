"""One page with everything: tables beside the paper's, figures, curves, and what has not been run.

The file is self-contained: style, script, pictures and configs are in it, so it works from the file system without a
network. Equal results and words give equal bytes.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.report.page.section import Section


@dataclass(frozen=True)
class Picture:
    """A figure, or why there is none."""

    number: str
    title: str
    data: str  # of the PNG, as a data URI
    reason: str


def write_page(
    results: Path,
    sections: Sequence[Section],
    figures: Mapping[str, str],
    words: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write ``results/report/index.html``; returns the file.

    Args:
        results: Its ``figures/`` has the pictures.
        sections: The tables.
        figures: Number -> title of the figures that there may be.
        words: Those of train.py that the runs were started with.
        notes: Further lines of what is not run.
    """
    pictures = [_picture(number, title, results) for number, title in figures.items()]
    environment = Environment(
        loader=PackageLoader("llqr_sam.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html").render(
        sections=sorted(sections, key=lambda section: _order(section.table.number)),
        pictures=pictures,
        damaged=notes,
        words=shlex.join(words),
    )
    path = results / "report" / "index.html"
    with replacing(path) as file:
        file.write(text.encode())
    return path


def _picture(number: str, title: str, results: Path) -> Picture:
    path = results / "figures" / f"figure_{int(number):02d}.png"
    if not path.exists():
        return Picture(
            number, title, "", "not drawn: its runs or measurements are missing, or make figures was not run"
        )
    return Picture(number, title, f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}", "")


def _order(number: str) -> tuple[bool, int, str]:
    """Tables by number, the demo last."""
    return (not number.isdigit(), int(number) if number.isdigit() else 0, number)
