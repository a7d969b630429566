"""What train.py does: shows a plan (``status=true``, ``dry_run=true``) or launches what is missing of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from llqr_sam.suite.config.command import Command, every_table
from llqr_sam.suite.config.errors import MISTAKES, passed_over
from llqr_sam.suite.plan.plan import Planned, table_folder, table_runs
from llqr_sam.suite.status.selection import conclude
from llqr_sam.suite.status.status import Comparison, Status


def dispatch(runs: Sequence[Planned], command: Command) -> int:
    """Shows the status of the runs or trains what is missing, then what a selection chose; returns the exit status."""
    config, exit_code = command.config, 0
    status = Status.under(runs, config, command.swept)
    if config.status or config.dry_run:
        hours = [str(status.hours())] if config.status else []
        print(*status.lines(), *hours, *Comparison.of(status, config).lines(), sep="\n")
    else:
        from llqr_sam.suite.launch.launch import launch  # late: showing a plan needs no workers, jobs and locks

        exit_code = launch(status, config)
    if config.select is not None:
        print(*conclude(Status.under(runs, config), command), sep="\n")
    return exit_code


def begun_tables(command: Command) -> Iterator[str]:
    """Lines about each table that has begun, for ``status=true`` without a table.

    Words that choose runs choose in every table, and then each chosen run has a line; the others hold for every table.
    There is no line if the words choose runs and no table that has begun has such runs. If all chosen runs of a table
    are missing, it has begun if there is any record in its folder.
    """
    begun, choosing = False, bool(command.axes)
    records, workspace = command.config.paths.results / "runs", command.config.paths.workspace
    names = {path.stem for path in (*records.glob("*/*.json"), *workspace.glob("*-*-*"))}
    for name, chosen in every_table(*command.words).items():
        table = chosen.table
        cells = product(table.datasets, table.archs, [method.optim for method in table.methods])
        starts = tuple(f"{dataset}-{arch}-{optim}-" for dataset, arch, optim in cells)
        if table.timing is not None or not any(name.startswith(starts) for name in names):
            continue  # planning a table takes about a second
        try:
            status = Status.under(list(table_runs(chosen)), command.config)
        except MISTAKES as mistake:
            yield passed_over(name, mistake)
            begun = True
            continue
        untouched = len(status.missing) == len(status.runs) and not status.hours().spent
        folder = records / table_folder(table.number, chosen.config.scale)
        others_begun = choosing and not command.changes_runs and any(folder.glob("*.json"))
        if not status.runs or (untouched and not others_begun):
            continue
        yield from [""] * begun
        yield f"{name}: {table.title}"
        yield from status.lines(brief=not choosing)
        yield str(status.hours())
        begun = True
    if not begun and not choosing:
        yield "no run of any table has begun"
