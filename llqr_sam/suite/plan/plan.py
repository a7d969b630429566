"""From a command line to its runs: one run, or every run of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from llqr_sam.suite.config.command import Command, RunConfig
from llqr_sam.suite.config.command_line import merged
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import TableConfig
from llqr_sam.suite.plan.selected_values import Choice, candidates, check_select, choices


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what its runs share, but for the seed."""

    dataset: str
    arch: str
    label_noise: float
    method: str
    geometry: str | None

    def __str__(self) -> str:
        noise = f"noise{self.label_noise:g}" if self.label_noise else ""
        return "-".join(filter(None, [self.dataset, self.arch, noise, self.label]))

    @property
    def label(self) -> str:
        """The method and its geometry."""
        return f"{self.method}-{self.geometry}" if self.geometry else self.method


@dataclass(frozen=True)
class Planned(RunConfig):
    """One run that a command asks for."""

    folder: str  # of its record under results/runs: table_02, demo, adhoc
    choices: tuple[Choice, ...] = ()  # what it uses of the hyper-parameters that its table selects

    @property
    def run_id(self) -> str:
        """Identity of the run; equal in every table that asks for it."""
        return self.settings.run_id

    @property
    def cell(self) -> Cell:
        """The cell of a table that the run belongs to."""
        dataset, optim = self.settings.dataset, self.settings.optim
        return Cell(dataset.name, self.settings.arch.name, dataset.label_noise, optim.name, optim.divergence)


def table_folder(number: str) -> str:
    """``table_02`` for 2, ``demo`` for demo."""
    return f"table_{int(number):02d}" if number.isdigit() else number


def plan(command: Command) -> list[Planned]:
    """The runs that a command asks for: one, or those of its table that its words choose.

    With ``select=`` they are the runs of the table's baseline at each candidate, in every row.

    Raises:
        UsageError: an impossible value, a choice that leaves no run, or ``select=`` without such a selection.
    """
    check_select(command)
    table = command.config.table
    if table is None:
        return [Planned(**vars(command.run), folder="adhoc")]
    runs = plan_table(command)
    if not runs:
        asked = " ".join(f"{key}={','.join(options)}" for key, options in command.axes.items())
        raise UsageError(f"table={table.number} has no run with {asked}. It has {_axes(table)}.")
    return runs


def plan_table(command: Command) -> list[Planned]:
    """The runs of a table as ``plan`` has them, or none where the words choose none.

    Raises:
        UsageError: an impossible value, or ``select=`` without such a selection.
    """
    check_select(command)
    return list(_runs(command, command.table))


def _axes(table: TableConfig) -> str:
    """The rows, columns and seeds of a table, for a message."""
    methods = [f"{method.optim}({method.geometry})" if method.geometry else method.optim for method in table.methods]
    seeds = [str(seed) for seed in table.seeds]
    axes = {"datasets": table.datasets, "archs": table.archs, "methods": methods, "seeds": seeds}
    return "; ".join(f"{axis} {', '.join(values)}" for axis, values in axes.items())


def _runs(command: Command, table: TableConfig) -> Iterator[Planned]:
    """The runs of a table, cell by cell in the order of its file, or of a selection, candidate by candidate."""
    asked, selection = command.axes.get("seed"), command.selection
    seeds = [seed for seed in table.seeds if asked is None or str(seed) in asked]
    common = merged(table.words, command.given)
    for dataset, arch in product(table.datasets, table.archs):
        if selection is None:
            columns = product(table.label_noise, [(method.optim, method.geometry) for method in table.methods])
            cells = [Cell(dataset, arch, noise, *method) for noise, method in columns]
        else:
            cells = [Cell(dataset, arch, 0.0, selection.optim, None)]
        cells = [cell for cell in cells if _matches(cell, command.axes)]
        if not cells or not seeds:
            continue
        row = Command.of(f"dataset={dataset}", f"arch={arch}", *common)
        used_in_turn = [choices(command, row)] if selection is None else candidates(command, row)
        for used, cell in product(used_in_turn, cells):
            own = [f"dataset={dataset}", f"arch={arch}", f"dataset.label_noise={cell.label_noise}"]
            own += [f"optim={cell.method}"] + ([f"geometry={cell.geometry}"] if cell.geometry else [])
            run = Command.of(*own, *common, *(choice.word for choice in used if choice.origin != "default")).run
            for seed in seeds:
                settings = replace(run.settings, seed=seed)
                yield Planned(**vars(run) | {"settings": settings}, folder=table_folder(table.number), choices=used)


def _matches(cell: Cell, chosen: dict[str, list[str]]) -> bool:
    """Whether the command asks for this cell; seeds are chosen separately."""
    noise = chosen.get("dataset.label_noise")
    return (
        cell.dataset in chosen.get("dataset", [cell.dataset])
        and cell.arch in chosen.get("arch", [cell.arch])
        and cell.method in chosen.get("optim", [cell.method])
        and (cell.geometry or "none") in chosen.get("geometry", [cell.geometry or "none"])
        and (noise is None or cell.label_noise in map(float, noise))
    )
