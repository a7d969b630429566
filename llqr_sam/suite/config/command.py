"""A command line as one object: the words after ``python train.py`` and the configuration that they mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llqr_sam.engine.settings.run_settings import RunSettings
from llqr_sam.suite.config.command_line import groups, merged, parsed, values
from llqr_sam.suite.config.compose import compose
from llqr_sam.suite.config.errors import UsageError, did_you_mean
from llqr_sam.suite.config.resolve import run_settings, typed_config
from llqr_sam.suite.config.schema import Config, TableConfig, TableSelection

# Keys that choose among the runs of a table: its rows, columns and seeds.
AXES = ("dataset", "arch", "dataset.label_noise", "optim", "geometry", "seed")
METHOD = ("optim", "geometry", "structure")  # groups that describe a method
# Keys that decide a result and may differ between runs that are launched together; the rest says where and how.
RUN_KEYS = ("dataset", "arch", "optim", "geometry", "structure", "protocol", "precision", "seed", "table")


@dataclass(frozen=True)
class RunConfig:
    """One run: the settings that decide its result, and where it finds data and how it is carried out."""

    settings: RunSettings
    data_path: Path | None  # dataset.path
    workers: int  # dataset.workers
    shard: bool  # optim.shard
    sharpness_rho: float | None  # radius at which sharpness is measured at the end; None: it is not

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UsageError(f"dataset.workers={self.workers} must be >= 0.")


@dataclass(frozen=True)
class Command:
    """The words of a command line, and the configuration that they compose to.

    Example:
        >>> table = Command.of("table=2", "launch=slurm")
        >>> table.config.table.title
        'CIFAR-100 standard benchmark'
        >>> Command.of("dataset=cifar100", "optim=sam", "seed=3").run.settings.run_id[:22]
        'cifar100-resnet18-sam-'
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, *words: str) -> Command:
        """A command of ``key=value`` words. They are read when ``config`` or ``run`` is first used."""
        return cls(words)

    def with_words(self, *words: str) -> Command:
        """The command with further words, which replace those of the same keys."""
        return Command(tuple(merged(self.words, words)))

    @cached_property
    def config(self) -> Config:
        """Where and how runs are carried out, and for which table.

        Raises:
            UsageError: a group, key or choice that does not exist, or a value out of range.
            HydraException, OmegaConfBaseException: a value of the wrong type.
        """
        return typed_config(self._composed)

    @property
    def table(self) -> TableConfig:
        """The table that the command names.

        Raises:
            UsageError: it names none.
        """
        if self.config.table is None:
            raise UsageError("table=null names no table. Choose one with table=.")
        return self.config.table

    @cached_property
    def selection(self) -> TableSelection | None:
        """The table's selection that ``select=`` names.

        Raises:
            UsageError: there is no table or no such selection, or a word leaves it nothing to select.
        """
        name, table = self.config.select, self.config.table
        if name is None:
            return None
        if table is None:
            known = ", ".join(groups()["table"])
            raise UsageError(f"select={name} needs a table. Choose one with table= from: {known}.")
        by_name = {selection.name: selection for selection in table.selections}
        if name not in by_name:
            known = f"Choose from: {', '.join(by_name)}{did_you_mean(name, by_name)}" if by_name else "It has none."
            raise UsageError(f"select={name} is not a selection of table={table.number}. {known}")
        for word in self.words:
            if root(word) in METHOD or _key(word) == "dataset.label_noise" or _name(word) == name:
                raise UsageError(f"{word} has no use with select={name}: dataset, arch and seed choose its runs.")
        return by_name[name]

    def sets(self, name: str) -> bool:
        """Whether a word sets the hyper-parameter ``name``, for the protocol or the method."""
        return any(_name(word) == name for word in self.words)

    @cached_property
    def run(self) -> RunConfig:
        """The run that the words describe if they name no table; raises as ``config``."""
        composed = self._composed
        settings = run_settings(composed, self.config.devices)
        return RunConfig(
            settings=settings,
            data_path=Path(composed.dataset.path) if composed.dataset.path else None,
            workers=composed.dataset.workers,
            shard=composed.optim.shard,
            sharpness_rho=composed.protocol.methods.rho if composed.sharpness else None,
        )

    @cached_property
    def axes(self) -> dict[str, list[str]]:
        """Key -> values, of the words that choose among the runs of a table."""
        return {word.key_or_group: values(word) for word in parsed([w for w in self.words if _key(w) in AXES])}

    @cached_property
    def given(self) -> list[str]:
        """The words that hold for every run of a table."""
        return [word for word in self.words if root(word) != "table" and _key(word) not in AXES]

    @property
    def changes_runs(self) -> bool:
        """Whether a word changes the runs of a table, beyond choosing among them."""
        return any(root(word) in RUN_KEYS for word in self.given)

    def value(self, key: str) -> Any:
        """The value of any dotted key of conf/."""
        return OmegaConf.select(self._composed, key)

    @cached_property
    def _composed(self) -> DictConfig:
        return compose(self.words)


def _key(word: str) -> str:
    return word.partition("=")[0]


def _name(word: str) -> str:
    """``rho`` of ``optim.rho=0.2``."""
    return _key(word).rpartition(".")[2]


def root(word: str) -> str:
    """``optim`` of ``optim.rho=0.2``."""
    return _key(word).partition(".")[0]
