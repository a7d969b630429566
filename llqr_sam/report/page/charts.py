"""The numbers behind the curves of the page, which its script draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llqr_sam.report.figures.curves import SCORES, Curve, curves_of, network_name
from llqr_sam.report.figures.drawing import INK, Look, looks
from llqr_sam.report.page.section import Chart, CurveLine
from llqr_sam.report.tables.accuracy_table import CellResult

DASH = 2.0  # pixels of a dash, in units of matplotlib's
NEWTON = (1.0, 2.0)  # dots, beside the dashes of the same method and colour


def chart_of(row: Sequence[CellResult]) -> Chart | None:
    """The curves of a row's finished runs; ``None`` if there are none."""
    curves = curves_of(row)
    if not curves:
        return None
    baseline = row[0].baseline
    base = next((n for n, curve in enumerate(curves) if baseline and curve.cell == baseline.cell), 0)
    found = looks(curve.cell.method for curve in curves)
    lines = [_line(curve, found[curve.cell.method]) for curve in curves]
    others = [n for n in range(len(curves)) if n != base]
    best = max(others, key=lambda n: curves[n].best, default=base)
    return Chart(network_name(row[0].cell), SCORES[curves[0].unit], (best, base), lines)


def _line(curve: Curve, how: Look) -> CurveLine:
    dashes = () if isinstance(how.dash, str) else how.dash[1]
    return CurveLine(
        name=curve.label,
        ink="ink" if how.colour == INK else how.colour,
        dash=NEWTON if curve.cell.geometry == "newton" else [DASH * part for part in dashes],
        seeds=len(curve.score),
        epoch=[round(float(epoch), 3) for epoch in curve.epochs],
        minutes=[round(float(seconds) / 60, 3) for seconds in curve.seconds.mean(axis=0)],
        score=_spread(curve.score, 2),
        loss=_spread(curve.loss, 4),
    )


def _spread(values: np.ndarray, digits: int) -> list[list[float | None]]:
    """Mean, lowest and highest over seeds, ``[3][evaluations]``; ``None`` where a seed has no value."""
    rows = (values.mean(axis=0), values.min(axis=0), values.max(axis=0))
    return [[round(float(value), digits) if np.isfinite(value) else None for value in row] for row in rows]
