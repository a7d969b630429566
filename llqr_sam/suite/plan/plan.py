"""Plans the runs of a command: one run, or the runs of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from llqr_sam.suite.config.command import Command, RunConfig
from llqr_sam.suite.config.command_line import merged
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import TableConfig
from llqr_sam.suite.plan.selected_values import Choice, choices, words_of


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its runs differ in their seeds."""

    dataset: str
    arch: str
    label_noise: float
    method: str
    geometry: str | None

    def __str__(self) -> str:
        noise = f"noise{self.label_noise:g}" if self.label_noise else ""
        return "-".join(filter(None, [self.dataset, self.arch, noise, self.label]))

    @property
    def words(self) -> list[str]:
        """The words that choose it on a command line."""
        words = [f"dataset={self.dataset}", f"arch={self.arch}", f"dataset.label_noise={self.label_noise}"]
        return [*words, f"optim={self.method}", *([f"geometry={self.geometry}"] if self.geometry else [])]

    @property
    def label(self) -> str:
        """The method and its geometry."""
        return f"{self.method}-{self.geometry}" if self.geometry else self.method


@dataclass(frozen=True)
class Planned(RunConfig):
    """One run that a command asks for."""

    folder: str  # of its record under results/runs: table_02, demo, adhoc
    choices: tuple[Choice, ...] = ()  # the values of the hyper-parameters that its table selects

    @cached_property
    def run_id(self) -> str:
        """Identity of the run; equal in every table that asks for it."""
        return self.settings.run_id

    @cached_property
    def cell(self) -> Cell:
        """The cell of a table that the run belongs to."""
        dataset, optim = self.settings.dataset, self.settings.optim
        return Cell(dataset.name, self.settings.arch.name, dataset.label_noise, optim.name, optim.divergence)


def table_folder(number: str) -> str:
    """``table_02`` for 2, ``demo`` for demo."""
    return f"table_{int(number):02d}" if number.isdigit() else number


def plan(command: Command) -> list[Planned]:
    """The runs that a command asks for: one, or those of its table that its words choose.

    With ``select=`` these are the runs of the table's baseline at each candidate, for every row.

    Raises:
        UsageError: an impossible value, words that choose no run, or ``select=`` without such a selection.
    """
    if command.config.table is None and command.selection is None:
        return [Planned(**vars(command.run), folder="adhoc")]
    table, runs = command.table, plan_table(command)
    if not runs:
        asked = " ".join(f"{key}={','.join(options)}" for key, options in command.axes.items())
        raise UsageError(f"table={table.number} has no run with {asked}. It has {_axes(table)}.")
    return runs


def plan_table(command: Command) -> list[Planned]:
    """As ``plan`` for a command with a table; without an error where the words choose no run.

    Raises:
        UsageError: an impossible value, or ``select=`` without such a selection.
    """
    return list(_runs(command, command.table))


def _axes(table: TableConfig) -> str:
    """The rows, columns and seeds of a table, for a message."""
    methods = [f"{method.optim}({method.geometry})" if method.geometry else method.optim for method in table.methods]
    seeds = [str(seed) for seed in table.seeds]
    axes = {"datasets": table.datasets, "archs": table.archs, "methods": methods, "seeds": seeds}
    return "; ".join(f"{axis} {', '.join(values)}" for axis, values in axes.items())


def _runs(command: Command, table: TableConfig) -> Iterator[Planned]:
    """Yields runs cell by cell in the order of the table's file; with ``select=`` candidate by candidate."""
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
        for used, cell in product(choices(command, row), cells):
            run = Command.of(*cell.words, *common, *words_of(used)).run
            for seed in seeds:
                settings = replace(run.settings, seed=seed)
                yield Planned(**vars(run) | {"settings": settings}, folder=table_folder(table.number), choices=used)


def _matches(cell: Cell, chosen: dict[str, list[str]]) -> bool:
    """Whether the command chooses this cell; seeds are chosen apart."""
    noise = chosen.get("dataset.label_noise")
    return (
        cell.dataset in chosen.get("dataset", [cell.dataset])
        and cell.arch in chosen.get("arch", [cell.arch])
        and cell.method in chosen.get("optim", [cell.method])
        and (cell.geometry or "none") in chosen.get("geometry", [cell.geometry or "none"])
        and (noise is None or cell.label_noise in map(float, noise))
    )
