"""Plans the runs of a command: one run, or the runs of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import merged
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import ScaleConfig
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
class Planned:
    """One run that a command asks for: the settings that decide its result, and what is not part of its id."""

    settings: RunSettings
    data_path: Path | None  # dataset.path
    workers: int  # dataset.workers
    shard: bool  # optim.shard
    sharpness_rho: float | None  # radius at which sharpness is measured at the end; None: it is not
    folder: str  # of its record under results/runs: table_02, demo, adhoc
    choices: tuple[Choice, ...] = ()  # the values of the hyper-parameters that its table selects

    @classmethod
    def of(cls, command: Command, folder: str, used: tuple[Choice, ...] = ()) -> Planned:
        """The run that a command's words describe if they name no table."""
        settings, path = command.settings, command.value("dataset.path")
        rho = command.value("protocol.methods.rho") if command.config.sharpness else None
        workers, shard = command.value("dataset.workers"), command.value("optim.shard")
        return cls(settings, Path(path) if path else None, workers, shard, rho, folder, used)

    @cached_property
    def run_id(self) -> str:
        """Identity of the run; equal in every table that asks for it."""
        return self.settings.run_id

    @cached_property
    def cell(self) -> Cell:
        """The cell of a table that the run belongs to."""
        dataset, optim = self.settings.dataset, self.settings.optim
        return Cell(dataset.name, self.settings.arch.name, dataset.label_noise, optim.name, optim.divergence)


def table_folder(number: str, scale: ScaleConfig) -> str:
    """``table_02`` for 2, ``demo`` for demo, ``small_table_02`` for the twin of 2 at scale=small."""
    folder = f"table_{int(number):02d}" if number.isdigit() else number
    return folder if scale.is_paper else f"{scale.name}_{folder}"


def plan(command: Command) -> list[Planned]:
    """The runs that a command asks for: one, or those of its table that its words choose (``table_runs``).

    An impossible value, words that choose no run, or ``select=`` without such a selection is a UsageError.
    """
    if command.selection is None and command.config.table is None:
        return [Planned.of(command, "adhoc")]
    with command.naming_files():
        table, runs = command.table, list(table_runs(command))
    if not runs:
        asked = " ".join(f"{key}={','.join(options)}" for key, options in command.axes.items())
        methods = [f"{each.optim}({each.geometry})" if each.geometry else each.optim for each in table.methods]
        axes = {"datasets": table.datasets, "archs": table.archs, "methods": methods, "seeds": map(str, table.seeds)}
        known = "; ".join(f"{axis} {', '.join(values)}" for axis, values in axes.items())
        raise UsageError(f"table={table.number} has no run with {asked}. It has {known}.")
    return runs


def table_runs(command: Command) -> Iterator[Planned]:
    """The runs of the command's table that its words choose, if any, cell by cell in the order of the table's file.

    With ``select=`` those of the baseline, candidate by candidate.
    """
    table, asked, selection = command.table, command.axes.get("seed"), command.selection
    planned = table.seeds if selection is None or selection.seeds is None else selection.seeds
    seeds = [seed for seed in planned if asked is None or str(seed) in asked]
    common, own = merged(table.words, command.given), selection.words if selection is not None else []
    folder = table_folder(table.number, command.config.scale)
    for dataset, arch in product(table.datasets, table.archs):
        columns = product(table.label_noise, table.methods)
        cells = [Cell(dataset, arch, noise, method.optim, method.geometry) for noise, method in columns]
        if selection is not None:
            cells = [Cell(dataset, arch, 0.0, selection.optim, None)]
        cells = [cell for cell in cells if _matches(cell, command.axes)]
        if not cells or not seeds:
            continue
        row = Command.of(f"dataset={dataset}", f"arch={arch}", *common)
        for used, cell in product(choices(command, row), cells):
            run = Planned.of(Command.of(*cell.words, *common, *own, *words_of(used)), folder, used)
            yield from (replace(run, settings=replace(run.settings, seed=seed)) for seed in seeds)


def _matches(cell: Cell, chosen: dict[str, list[str]]) -> bool:
    """Whether the command chooses this cell; seeds are chosen apart."""
    noise = chosen.get("dataset.label_noise")
    values = {"dataset": cell.dataset, "arch": cell.arch, "optim": cell.method, "geometry": cell.geometry or "none"}
    named = all(value in chosen.get(key, [value]) for key, value in values.items())
    return named and (noise is None or cell.label_noise in map(float, noise))
