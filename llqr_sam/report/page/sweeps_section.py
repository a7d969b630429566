"""A person's own runs and sweeps on the page: a section for each data set and network with runs of no table."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace

from llqr_sam.engine.records.record import read_records
from llqr_sam.engine.settings.flat import leaves
from llqr_sam.report.figures.drawing import svg
from llqr_sam.report.page.answer import answer, difference_of
from llqr_sam.report.page.section import Answer, Section
from llqr_sam.report.page.track import Axis, Effect
from llqr_sam.report.sweeps.sweep import Outcome, Sweep, best_of, check_data, grouped, recorded
from llqr_sam.report.sweeps.sweep_figure import draw_sweep, main_setting
from llqr_sam.report.sweeps.sweep_text import best_sentences, network_title, print_sweep
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.plan.labels import NETWORK, place
from llqr_sam.suite.status.begun import ADHOC, adhoc_runs
from llqr_sam.suite.status.status import Status

BASELINE = "sgdm"  # that the methods of a sweep are compared with


def sweep_sections(command: Command) -> Iterator[Section]:
    """The sections, from the records in ``results/runs/adhoc`` and the runs of no table that are going on.

    ``command`` has the paths and no other words.
    """
    records, damaged = read_records(command.config.paths.results / "runs" / ADHOC)
    running = _running(command)
    networks: dict[tuple[str, ...], list[Outcome]] = {}
    for run in [*recorded(records), *(outcome for outcome, _ in running.values())]:
        networks.setdefault(place(run.settings, NETWORK), []).append(run)
    for (dataset, arch), runs in sorted(networks.items()):
        sweep = grouped(runs)
        over = main_setting(sweep)
        sweep = sweep.ordered([over])
        best = [point for points in sweep.series([over]).values() if (point := best_of(points))]
        printed = f"python scripts/summarise.py over={over} dataset={dataset} arch={arch}"
        table = print_sweep(sweep, best, f"Single runs: {network_title(sweep.points[0])}", printed)
        section = Section(
            table,
            damage=[f"record not counted: {line}" for line in damaged],
            records=[run.record for run in runs if run.record is not None],
            running={run_id: line for run_id, (run, line) in running.items() if run in runs},
        )
        try:
            check_data(runs)
        except UsageError as mixture:
            yield replace(section, table=replace(table, groups=[], caption="", progress=""), damage=[str(mixture)])
            continue
        yield replace(
            section,
            table=replace(table, notes=list(best_sentences(sweep, [over]))),
            caption=f"{table.caption} Bold: the highest mean, whatever its interval.",
            answer=_answer(sweep),
            picture=base64.b64encode(svg(draw_sweep(sweep, over))).decode() if best and sweep.differing else "",
        )


def _running(command: Command) -> dict[str, tuple[Outcome, str]]:
    """Run id -> the run, and how far it is, of each run of no table that is going on."""
    runs, _ = adhoc_runs(command, ())
    status = Status.under(runs, command.config)
    found = status.select("running")
    return {run.run_id: (Outcome(leaves(run.settings.as_dict()), "running", None), status.line(run)) for run in found}


def _answer(sweep: Sweep) -> Answer | None:
    """The methods against the baseline, if nothing else varies."""
    base = next((point for point in sweep.points if point.values["optim.name"] == BASELINE), None)
    if base is None or sweep.varied:
        return None
    found = [(point, sample) for point in sweep.points if (sample := point.best.minus(base.best)).values]
    others = [(point, sample) for point, sample in found if point is not base]
    if not others:
        return None
    axis = Axis.over([Effect(sample) for _, sample in others])
    compared = [
        (point.named("optim.name"), difference_of(sample, axis), point.states["diverged"]) for point, sample in others
    ]
    return answer(compared, axis, BASELINE, "points" if sweep.unit == "%" else sweep.unit)
