"""The tables that have begun: ``status=true`` without a table."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.config.errors import MISTAKES, passed_over
from llqr_sam.suite.config.schema import TableConfig
from llqr_sam.suite.plan.plan import plan_table, table_folder
from llqr_sam.suite.status.same_data import check_paths
from llqr_sam.suite.status.status import Status


def begun_tables(command: Command) -> Iterator[str]:
    """Lines about each table that has begun: in brief, or of each run where the words choose runs.

    No line if the words choose runs and no table that has begun has such runs. If all chosen runs of a table are
    missing, it has begun if there is any record in its folder.

    Args:
        command: Without a table. Words that choose runs choose in every table, the others hold for every table.

    Raises:
        UsageError: ``dataset.path`` names nothing.
    """
    begun, choosing = False, bool(command.axes)
    results, workspace = command.config.paths.results, command.config.paths.workspace
    names = {path.stem for path in (*(results / "runs").glob("*/*.json"), *workspace.glob("*-*-*"))}
    path = command.value("dataset.path")
    check_paths([Path(path) if path else None], command.config)
    for number in groups()["table"]:
        chosen = command.with_words(f"table={number}")
        if chosen.config.times_networks or not _may_have_begun(chosen.table, names):
            continue  # planning a table takes about a second
        try:
            status = Status.under(plan_table(chosen), command.config)
        except MISTAKES as mistake:
            yield passed_over(f"table={number}", mistake)
            begun = True
            continue
        untouched = len(status.missing) == len(status.runs) and not status.hours().spent
        records = (results / "runs" / table_folder(number)).glob("*.json")
        others_begun = choosing and not command.changes_runs and any(records)
        if not status.runs or (untouched and not others_begun):
            continue
        yield from [""] * begun
        yield f"table={number}: {chosen.table.title}"
        yield from status.lines(brief=not choosing)
        yield str(status.hours())
        begun = True
    if not begun and not choosing:
        yield "no run of any table has begun"


def _may_have_begun(table: TableConfig, names: set[str]) -> bool:
    """Whether any run has the data set, network and optimizer of a cell."""
    cells = product(table.datasets, table.archs, [method.optim for method in table.methods])
    starts = tuple(f"{dataset}-{arch}-{optim}-" for dataset, arch, optim in cells)
    return any(name.startswith(starts) for name in names)
