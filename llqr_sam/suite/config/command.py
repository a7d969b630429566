"""A command line as one object: the words after ``python train.py`` and the configuration that they mean.

Every value is checked when ``config`` or ``settings`` is first used, before any data are touched.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llqr_sam.data import registry as data
from llqr_sam.engine import plugins
from llqr_sam.engine.settings.run_settings import RunSettings, file_label
from llqr_sam.engine.tasks import registry as tasks
from llqr_sam.methods.settings import require
from llqr_sam.suite.config.command_line import choices, composing, groups, merged, parsed, values
from llqr_sam.suite.config.compose import compose
from llqr_sam.suite.config.errors import UsageError, did_you_mean, usage_errors
from llqr_sam.suite.config.own_files import naming
from llqr_sam.suite.config.schema import (
    PLUGINS,
    Config,
    PathsConfig,
    ScaleConfig,
    TableConfig,
    TableSelection,
    code_in_a_file,
)

# Keys that choose among the runs of a table: its rows, columns and seeds.
AXES = ("dataset", "arch", "dataset.label_noise", "optim", "geometry", "seed")
ALONE = {"sgdm": "sgd", "adam": "adam", "adamw": "adamw"}  # methods that are one base optimizer, and its name
METHOD = ("optim", "geometry", "structure")  # groups that describe a method
# Keys that decide a result and may differ between runs that are launched together; the rest says where and how.
RUN_KEYS = ("dataset", "arch", "optim", "geometry", "structure", "protocol", "precision", "scale", "seed", "table")


@dataclass(frozen=True)
class Command:
    """The words of a command line, and the configuration that they compose to.

    Every mistake in the words is a ``UsageError``, or an error of Hydra or OmegaConf (``errors.MISTAKES``).

    Example:
        >>> table = Command.of("table=2", "launch=slurm")
        >>> table.config.table.title
        'CIFAR-100 standard benchmark'
        >>> Command.of("dataset=cifar100", "optim=sam", "seed=3").settings.run_id[:22]
        'cifar100-resnet18-sam-'
    """

    words: tuple[str, ...]
    swept: tuple[str, ...] = ()  # keys that vary among the jobs of a multirun of which this is one

    @classmethod
    def of(cls, *words: str) -> Command:
        """A command of ``key=value`` words. They are read when ``config`` or ``settings`` is first used."""
        return cls(tuple(word.removeprefix("++") for word in words))  # which checked_words puts before some

    def with_words(self, *words: str) -> Command:
        """The command with further words, which replace those of the same keys."""
        return Command(tuple(merged(self.words, words)))

    @cached_property
    def config(self) -> Config:
        """Where and how runs are carried out, and for which table."""
        with self.naming_files(), usage_errors():
            return self._config()

    def _config(self) -> Config:
        tree: dict[str, Any] = {field.name: self._composed[field.name] for field in fields(Config)}
        tree = {key: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value for key, value in tree.items()}
        paths = {name: Path(value).expanduser() for name, value in vars(tree["paths"]).items()}
        if tree["table"] is not None:
            tree["table"] = tree["table"].at(
                tree["scale"], [_name(word) for word in self.words if root(word) == "table"]
            )
            baseline, methods = tree["table"].baseline, groups()["optim"]
            if baseline not in methods:
                meant = did_you_mean(baseline, methods)
                raise UsageError(f"table.baseline={baseline} is not an optimizer here{meant}")
        return Config(**tree | {"paths": PathsConfig(**paths)})

    @property
    def table(self) -> TableConfig:
        """The table that the command names; it is a mistake if it names none."""
        if self.config.table is None:
            raise UsageError("table=null names no table. Choose one with table=.")
        return self.config.table

    @cached_property
    def selection(self) -> TableSelection | None:
        """The table's selection that ``select=`` names."""
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
    def settings(self) -> RunSettings:
        """What decides the result of the run that the words describe if they name no table."""
        with self.naming_files(), usage_errors():
            return self._settings()

    def _settings(self) -> RunSettings:
        composed, devices = self._composed, self.config.devices
        _check_names(composed)
        _check_scale(self.config.scale, composed.dataset.name)
        _check_base(composed.optim)
        _check_geometry(composed)
        parts = ("dataset", "arch", "optim", "protocol", "precision")
        tree: dict[str, Any] = {part: OmegaConf.to_container(composed[part], resolve=True) for part in parts}
        tree["dataset"]["name"] = _label(composed.dataset)
        settings = RunSettings.from_dict({**tree, "seed": composed.seed})
        tasks.check(settings, devices)
        if settings.dataset.reader in data.names():
            data.check_path(settings.dataset.reader, composed.dataset.path)
        _check_devices(composed, devices)
        require(composed.dataset.workers >= 0, "dataset.workers", composed.dataset.workers, "must be >= 0")
        return settings

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

    @property
    def run_words(self) -> list[str]:
        """The table's words and the command's, of each key the command's, that change the table's runs."""
        return [word for word in merged(self.table.words, self.given) if root(word) in RUN_KEYS]

    def value(self, key: str) -> Any:
        """The value of any dotted key of conf/."""
        return OmegaConf.select(self._composed, key)

    def naming_files(self) -> AbstractContextManager[None]:
        """Says which of the user's files a mistake is in."""
        return naming(choices(parsed(self.words)), map(_key, self.words))

    @cached_property
    def _composed(self) -> DictConfig:
        words = [word for word in self.words if not self._chooses_several(word)]
        with composing(words):
            composed = compose(words)
        if composed.plugins and PLUGINS not in map(_key, self.words):
            raise code_in_a_file(f"{PLUGINS}=[{','.join(composed.plugins)}]")
        with usage_errors():
            plugins.load(dict.fromkeys(composed.plugins, str(Path.cwd())))
        return composed

    def _chooses_several(self, word: str) -> bool:
        """Whether a word only chooses runs of the command's table, as ``seed=0,1``: a configuration has one seed."""
        in_table = any(root(other) == "table" and _name(other) == "table" for other in self.words)
        return in_table and _key(word) in AXES and parsed([word])[0].is_sweep_override()


def every_table(*words: str) -> dict[str, Command]:
    """Name -> the command of each table with further words; the name of a twin is ``table=2 scale=small``.

    A scale among the words chooses the tables of that scale.
    """
    asked = [str(override.value()) for override in parsed(words) if override.key_or_group == "scale"]
    commands = {}
    for number in groups()["table"]:
        twins = Command.of(f"table={number}").table.scales
        for scale in ("paper", *twins):
            if not asked or scale in asked:
                own = (f"table={number}", *([f"scale={scale}"] if scale != "paper" else []))
                commands[" ".join(own)] = Command.of(*own).with_words(*words)
    return commands


def _key(word: str) -> str:
    return word.partition("=")[0]


def _name(word: str) -> str:
    """``rho`` of ``optim.rho=0.2``."""
    return _key(word).rpartition(".")[2]


def root(word: str) -> str:
    """``optim`` of ``optim.rho=0.2``."""
    return _key(word).partition(".")[0]


def _check_scale(scale: ScaleConfig, dataset: str) -> None:
    """Check that the scale is for the data set."""
    known = f"has no values for dataset={dataset}. It is for: {', '.join(scale.datasets)}"
    require(not scale.datasets or dataset in scale.datasets, "scale", scale.name, known)


def _check_base(optim: DictConfig) -> None:
    """Check that a method that is called after its base optimizer has this base."""
    own = ALONE.get(optim.name, optim.base)
    problem = f"has no use with optim={optim.name}, which is {own}. Write optim=base optim.base={optim.base}"
    require(optim.base == own, "optim.base", optim.base, problem)


def _check_names(config: DictConfig) -> None:
    """Check that there is a path, collection or model where a data set or network is named after it: ``${.path}``."""
    for group, keys in (("dataset", ("path", "collection")), ("arch", ("model",))):
        values: Any = OmegaConf.to_container(config[group])
        for key in (key for key in keys if values["name"] == f"${{.{key}}}"):
            problem = f"must have a value for {group}={values['source']}"
            require(values[key] is not None, f"{group}.{key}", None, problem)


def _label(dataset: DictConfig) -> str:
    """What the data are called; not as other data of ours, if they are read from elsewhere: digits_folder."""
    name = file_label(dataset.name)
    is_taken = dataset.source not in (None, name) and name in tasks.datasets()
    return f"{name}_{dataset.source}" if is_taken else name or str(dataset.name)


def _check_geometry(config: DictConfig) -> None:
    """Check that geometry and structure are given exactly where the optimizer learns a metric."""
    learns, optim = "llqr" in (config.optim.probe, config.optim.transport), config.optim.name
    for group in ("geometry", "structure"):
        name = config[group].name
        choices = ", ".join(choice for choice in groups()[group] if choice != "none")
        lacking = f"leaves optim={optim} without one. Choose from: {choices}"
        require(not learns or name is not None, group, "none", lacking)
        require(learns or name is None, group, name, f"has no use with optim={optim}: it has no learned metric")


def _check_devices(config: DictConfig, devices: int) -> None:
    """Check that devices share minibatches equally, and that there is a metric and a second device to shard it over."""
    for key in ("protocol.batch_size", "optim.refresh_batch"):
        size = OmegaConf.select(config, key)
        divides = size is None or size % devices == 0
        require(divides, "devices", devices, f"must divide {key}={size}: each has the same share of a minibatch")
    batch_size, parts = config.protocol.batch_size, config.precision.accumulate
    share = parts if batch_size is None else batch_size // devices
    problem = f"must be at most {share}, a device's share of a minibatch"
    require(parts <= share, "precision.accumulate", parts, problem)
    if config.optim.shard:
        learns = "llqr" in (config.optim.probe, config.optim.transport)
        problem = "spreads the learned metric over devices: it needs devices > 1"
        require(devices > 1, "optim.shard", "true", problem)
        require(learns, "optim.shard", "true", f"has no use with optim={config.optim.name}: it has no learned metric")
