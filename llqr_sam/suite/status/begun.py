"""What has begun, for ``status=true`` without a table: the tables, and the runs that belong to none of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import product

from llqr_sam.engine.records.record import read_records
from llqr_sam.suite.config.command import RUN_KEYS, Command, every_table, root
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.config.errors import MISTAKES, UsageError, passed_over
from llqr_sam.suite.config.schema import ScaleConfig
from llqr_sam.suite.plan.plan import Planned, table_folder, table_runs
from llqr_sam.suite.run.lookup import KnownRun, settings_of
from llqr_sam.suite.run.run_folder import Begun
from llqr_sam.suite.status.filters import Filter
from llqr_sam.suite.status.status import Status

ADHOC = "adhoc"  # folder under results/runs of the records of no table
HOW = ("dataset.path", "dataset.workers", "optim.shard")  # that say where and how, and choose no run


def begun(command: Command) -> Iterator[str]:
    """Lines about each table that has begun, then about the runs of no table.

    Words that choose runs choose among all of them, and then each chosen run has a line. There is no line if the words
    choose runs and none has begun.
    """
    shown: set[str] = set()
    choosing, parts = bool(command.axes), 0
    for name, title, status in begun_tables(command):
        yield from [""] * (parts > 0)
        parts += 1
        if status is None:
            yield title
            continue
        shown.update(run.run_id for run in status.runs)
        yield f"{name}: {title}"
        yield from _lines(status, brief=not choosing)
    runs, problems = adhoc_runs(command, shown)
    problems += strange_folders(command)
    if runs or problems:
        yield from [""] * (parts > 0)
        parts += 1
        yield "runs of no table"
        yield from problems
    if runs:
        yield from _lines(Status.under(runs, command.config), brief=not choosing and not command.changes_runs)
    if not parts and not choosing:
        yield "no run has begun"


def _lines(status: Status, *, brief: bool) -> Iterator[str]:
    yield from status.lines(brief=brief)
    yield str(status.hours())


def begun_tables(command: Command) -> Iterator[tuple[str, str, Status | None]]:
    """Name, title and status of each table that has begun; one that cannot take the words has no status, but a reason.

    If all chosen runs of a table are missing, it has begun if one of them is queued, or if there is any record in its
    folder.
    """
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
            yield name, passed_over(name, mistake), None
            continue
        untouched = len(status.missing) == len(status.runs) and not status.hours().spent and not status.notes
        folder = records / table_folder(table.number, chosen.config.scale)
        others_begun = bool(command.axes) and not command.changes_runs and any(folder.glob("*.json"))
        if status.runs and (not untouched or others_begun):
            yield name, table.title, status


def strange_folders(command: Command) -> list[str]:
    """A line for each folder of records that belongs to no table here: the user's own tables, when not named."""
    tables = product(groups()["table"], groups()["scale"])
    known = {ADHOC, *(table_folder(number, ScaleConfig(scale, title=scale)) for number, scale in tables)}
    folders = sorted((command.config.paths.results / "runs").glob("*/"))
    counted = [(folder, len(list(folder.glob("*.json")))) for folder in folders if folder.name not in known]
    what = "records of a table that is not here (-cd DIR?)"
    return [f"{folder} has {count} {what}" for folder, count in counted if count]


def adhoc_runs(command: Command, tabled: Collection[str]) -> tuple[list[Planned], list[str]]:
    """The runs of no table that the words choose and ``tabled`` does not hold: ended ones, then the others.

    Also a line for each record or word that cannot be read as one.
    """
    paths = command.config.paths
    records, damaged = read_records(paths.results / "runs" / ADHOC)
    folders = sorted(path.parent for path in paths.workspace.glob(f"*/{Begun.name}"))
    notes = [(folder, Begun.read(folder)) for folder in folders]
    known = [KnownRun(each.run_id, each.config, paths.workspace / each.run_id, each) for each in records]
    known += [KnownRun(folder.name, note.config, folder) for folder, note in notes if note and note.folder == ADHOC]
    problems = [f"record not counted: {reason}" for reason in damaged]
    try:
        words = [word for word in command.words if root(word) in RUN_KEYS and word.partition("=")[0] not in HOW]
        chosen = Filter.of(words if known else [])
    except UsageError as mistake:
        return [], [*problems, f"runs of no table are not shown: {mistake}"]
    runs: dict[str, Planned] = {}
    for each in (each for each in known if chosen.matches(each.config)):
        try:
            settings = settings_of(each)
        except UsageError as mistake:
            problems.append(str(mistake))
            continue
        run = Planned(settings, data_path=None, workers=0, shard=False, sharpness_rho=None, folder=ADHOC)
        runs[run.run_id] = run
    return [run for run_id, run in runs.items() if run_id not in tabled], problems
