"""From a command line to its runs: one run, or every run of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from omegaconf import DictConfig

from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.suite.config.command_line import merged, parsed, values
from llqr_sam.suite.config.compose import compose_config
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.resolve import run_settings
from llqr_sam.suite.plan.selected_values import SCORES, Choice, apply, candidates, check_select, choices, selection_of

# The words that say which run of a table is meant; with table=N they pick rows, columns and seeds.
AXES = ("dataset", "arch", "dataset.label_noise", "optim", "geometry", "seed")
# What decides a result, and may differ between runs that are launched together; the rest says where and how.
RUN_KEYS = ("dataset", "arch", "optim", "geometry", "structure", "protocol", "precision", "seed", "table")


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
class Planned:
    """One run that a command asks for."""

    folder: str  # of its record under results/runs: table_02, demo, adhoc
    cell: Cell
    settings: RunSettings
    data_path: Path | None
    workers: int
    sharpness_rho: float | None = None  # measure sharpness at the end, at the protocol's rho
    choices: tuple[Choice, ...] = ()  # what it uses of the hyper-parameters that its table selects

    @property
    def run_id(self) -> str:
        """Identity of the run; equal in every table that asks for it."""
        return self.settings.run_id


def table_folder(number: str) -> str:
    """``table_02`` for 2, ``demo`` for demo."""
    return f"table_{int(number):02d}" if number.isdigit() else number


def plan(config: DictConfig, words: Sequence[str]) -> list[Planned]:
    """The runs that a configuration asks for.

    Args:
        config: Composed from ``words``.
        words: The command line's ``key=value`` words. With a table, those of ``AXES`` choose among its runs and the
            others hold for every run.

    Raises:
        UsageError: an impossible value, a choice that leaves no run, or ``select=`` without such a selection.

    With ``select=`` they are the runs of the table's baseline at each candidate, in every row.
    """
    if config.table is None:
        check_select(config, words)
        return [_planned(config, "adhoc")]
    runs = plan_table(config, words)
    if not runs:
        asked = " ".join(f"{key}={','.join(options)}" for key, options in _chosen(words).items())
        raise UsageError(f"table={config.table.number} has no run with {asked}. It has {_axes(config.table)}.")
    return runs


def plan_table(config: DictConfig, words: Sequence[str]) -> list[Planned]:
    """The runs of a table as ``plan`` has them, or none where the words choose none.

    Raises:
        UsageError: an impossible value, or ``select=`` without such a selection.
    """
    check_select(config, words)
    if config.table.metric not in SCORES:
        raise UsageError(f"table.metric={config.table.metric} is not possible. Choose from: {', '.join(SCORES)}.")
    return list(_runs(config, words, _chosen(words)))


def choose_runs(words: Sequence[str]) -> bool:
    """Whether any of the words says which run of a table is meant."""
    return any(_is_axis(word) for word in words)


def change_runs(words: Sequence[str]) -> bool:
    """Whether any of the words makes a table's runs other ones, beyond choosing among them."""
    roots = [word.partition("=")[0].partition(".")[0] for word in words if not _is_axis(word)]
    return any(root in RUN_KEYS for root in roots)


def check_timed_here(config: DictConfig) -> None:
    """A table of times has no runs to launch elsewhere.

    Raises:
        UsageError: it is launched elsewhere.
    """
    if is_timed(config) and config.launch.name != "inline":
        raise UsageError(
            f"launch={config.launch.name} has no use with table={config.table.number}: it times this machine."
        )


def is_timed(config: DictConfig) -> bool:
    """Whether the configuration asks for a table of times."""
    return config.table is not None and config.table.timing is not None


def _axes(table: DictConfig) -> str:
    """The rows, columns and seeds of a table, for a message."""
    methods = [f"{method.optim}({method.geometry})" if method.geometry else method.optim for method in table.methods]
    axes = {"datasets": table.datasets, "archs": table.archs, "methods": methods, "seeds": table.seeds}
    return "; ".join(f"{axis} {', '.join(map(str, values))}" for axis, values in axes.items())


def _runs(config: DictConfig, words: Sequence[str], chosen: dict[str, list[str]]) -> Iterator[Planned]:
    """The runs of a table, cell by cell in the order of its file, or of a selection, candidate by candidate."""
    given = [word for word in words if word.partition("=")[0].partition(".")[0] != "table" and not _is_axis(word)]
    common = merged(config.table.words, given)
    for dataset, arch in product(config.table.datasets, config.table.archs):
        cells = [cell for cell in _cells(config, dataset, arch) if _matches(cell, chosen)]
        if not cells:
            continue
        selecting = config.select is not None
        uses = candidates(config, dataset, arch, common) if selecting else [choices(config, dataset, arch, common)]
        for used, cell in product(uses, cells):
            yield from _seeds(config, cell, used, common, chosen.get("seed"))


def _cells(config: DictConfig, dataset: str, arch: str) -> Iterator[Cell]:
    """The cells of a data set and network; a selection has its baseline alone, on clean labels."""
    table = config.table
    if config.select is not None:
        yield Cell(dataset, arch, 0.0, selection_of(config).optim, None)
        return
    for noise, method in product(table.label_noise, table.methods):
        yield Cell(dataset, arch, noise, method.optim, method.geometry)


def _seeds(
    config: DictConfig, cell: Cell, used: tuple[Choice, ...], common: Sequence[str], asked: Sequence[str] | None
) -> Iterator[Planned]:
    """The cell's runs: composed once, copied for each seed (of those asked for, if any are)."""
    seeds = [seed for seed in config.table.seeds if asked is None or str(seed) in asked]
    if not seeds:
        return
    own = [f"dataset={cell.dataset}", f"arch={cell.arch}", f"dataset.label_noise={cell.label_noise}"]
    own += [f"optim={cell.method}"] + ([f"geometry={cell.geometry}"] if cell.geometry else [])
    composed = compose_config([*own, *common])
    apply(used, composed)
    first = _planned(composed, table_folder(config.table.number), used)
    for seed in seeds:
        yield replace(first, settings=replace(first.settings, seed=seed))


def _planned(config: DictConfig, folder: str, used: tuple[Choice, ...] = ()) -> Planned:
    settings = run_settings(config)
    return Planned(
        folder=folder,
        cell=Cell(
            settings.dataset.name,
            settings.arch.name,
            settings.dataset.label_noise,
            settings.optim.name,
            settings.optim.divergence,
        ),
        settings=settings,
        data_path=Path(config.dataset.path) if config.dataset.path else None,
        workers=config.dataset.workers,
        sharpness_rho=config.protocol.methods.rho if config.sharpness else None,
        choices=used,
    )


def _is_axis(word: str) -> bool:
    return word.partition("=")[0] in AXES


def _chosen(words: Sequence[str]) -> dict[str, list[str]]:
    return {override.key_or_group: values(override) for override in parsed([w for w in words if _is_axis(w)])}


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
