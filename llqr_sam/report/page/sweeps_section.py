"""A person's own sweeps on the page: a section for each data set and network with single runs that differ."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llqr_sam.engine.records.record import Record, read_records
from llqr_sam.report.figures.drawing import svg
from llqr_sam.report.page.answer import Found, answer
from llqr_sam.report.page.section import Answer, Section
from llqr_sam.report.sweeps.sweep import Outcome, Sweep, best_of, check_data, grouped, recorded
from llqr_sam.report.sweeps.sweep_figure import draw_sweep, main_setting
from llqr_sam.report.sweeps.sweep_text import best_sentences, network_title, print_sweep
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.plan.labels import NETWORK, place

BASELINE = "sgdm"  # that the methods of a sweep are compared with


def sweep_sections(results: Path) -> Iterator[Section]:
    """The sections, from the records in ``results/runs/adhoc``; none where runs differ in their seeds alone."""
    records, _ = read_records(results / "runs" / "adhoc")
    networks: dict[tuple[str, ...], list[Outcome]] = {}
    for run in recorded(records):
        networks.setdefault(place(run.settings, NETWORK), []).append(run)
    for (dataset, arch), runs in sorted(networks.items()):
        sweep = grouped(runs)
        if not sweep.differing:
            continue
        over = main_setting(sweep)
        sweep = sweep.ordered([over])
        best = [point for points in sweep.series([over]).values() if (point := best_of(points))]
        command = f"python scripts/summarise.py over={over} dataset={dataset} arch={arch}"
        table = print_sweep(sweep, best, f"Single runs: {network_title(sweep.points[0])}", command)
        used = _records(runs)
        try:
            check_data(runs)
        except UsageError as mixture:
            yield Section(replace(table, groups=[], caption="", progress=""), damage=[str(mixture)], records=used)
            continue
        picture = base64.b64encode(svg(draw_sweep(sweep, over))).decode() if best else ""
        table = replace(table, notes=list(best_sentences(sweep, [over])))
        yield Section(table, answer=_answer(sweep), picture=picture, records=used)


def _records(runs: list[Outcome]) -> list[Record]:
    return [run.record for run in runs if run.record is not None]


def _answer(sweep: Sweep) -> Answer | None:
    """The methods against the baseline, if nothing else varies."""
    base = next((point for point in sweep.points if point.values["optim.name"] == BASELINE), None)
    if base is None or sweep.varied:
        return None
    others = [point for point in sweep.points if point is not base]
    found = [Found(point.named("optim.name"), point.best.minus(base.best)) for point in others]
    return answer(found, BASELINE)
