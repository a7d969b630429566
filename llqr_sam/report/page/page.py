"""The page with all results: who wins, the claims, tables, curves and figures, and what has not been run.

The file contains its style, script, pictures and configurations, so it can be opened without a network. Equal results
and words give equal bytes, unless runs are going on.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.report.claims.evidence import Evidence
from llqr_sam.report.page.answer import what_was_run
from llqr_sam.report.page.claims_section import claims_section
from llqr_sam.report.page.section import Section
from llqr_sam.suite.status.uploads import PAGE

RELOAD = 20  # seconds after which the page loads itself again while runs are going on


def write_page(
    results: Path,
    claims: Evidence,
    sections: Sequence[Section],
    figures: Mapping[str, str],
    words: Sequence[str] = (),
    notes: Sequence[str] = (),
    *,
    watching: bool = False,
) -> Path:
    """Write ``results/report/index.html``; returns the file.

    Args:
        results: Folder whose ``figures/`` holds the pictures.
        claims: What the records say of the paper's claims.
        sections: The tables, in any order.
        figures: Number -> title. A figure without a picture is listed as not drawn.
        words: What the runs were started with.
        notes: Further lines for the list of what has not been run.
        watching: Whether the page will be written again; it then loads itself again, as it does while runs go on.
    """
    ordered = sorted(sections, key=_order)
    begun = sorted((section for section in ordered if section.has_begun), key=lambda section: not section.records)
    running = {run_id for section in sections for run_id in section.running}
    failed = {run_id for section in sections for run_id in section.failed}
    pictures = [(number, title, _picture(f"figure_{int(number):02d}", results)) for number, title in figures.items()]
    template = _jinja().get_template("page.html")
    text = template.render(
        facts=what_was_run((record for section in begun for record in section.records), len(running), len(failed)),
        claims=claims_section(claims),
        begun=begun,
        waiting=[section for section in ordered if not section.has_begun],
        figures=pictures,
        notes=notes,
        words=shlex.join(words),
        running=len(running),
        written=f"{datetime.now():%H:%M:%S}" if running or watching else "",
        reload=RELOAD,
    )
    with replacing(results / PAGE) as file:
        file.write(text.encode())
    return results / PAGE


def _jinja() -> Environment:
    loader = PackageLoader("llqr_sam.report.page")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters["fields"] = asdict  # for tojson
    return jinja


def _picture(name: str, results: Path) -> str:
    """A figure as a data URI; empty if it has not been drawn."""
    for suffix, kind in (("svg", "svg+xml"), ("png", "png")):
        path = results / "figures" / f"{name}.{suffix}"
        if path.exists():
            return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return ""


def _order(section: Section) -> tuple[bool, int, str]:
    """Sorts tables by number, named ones last; a twin comes after its table."""
    name = section.table.number
    number = name.partition("-")[0]
    return (not number.isdigit(), int(number) if number.isdigit() else 0, name)
