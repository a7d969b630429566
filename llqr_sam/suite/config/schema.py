"""The types of conf/, registered with Hydra so that a wrong type or an unknown key is refused.

``Config`` says where and how runs are carried out. ``Schema`` adds the groups of which ``Command.settings`` is made.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_origin

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from llqr_sam.engine.settings.run_settings import ArchSettings, DatasetSettings, PrecisionSettings, ProtocolSettings
from llqr_sam.methods.settings import MethodSettings, Settings, require
from llqr_sam.suite.config import base_numbers  # noqa: F401  # registers what conf/optim/part/base.yaml calls
from llqr_sam.suite.config.errors import UsageError

PLUGINS = "plugins"  # the key that names code: no file may set it
FORMATS = ("md", "csv", "tex")  # of a table's files
SCORES = {"top1": "test top-1", "val_bleu": "validation BLEU"}  # table.metric -> whose best over training counts


def code_in_a_file(word: str) -> UsageError:
    """The mistake of a file that sets ``PLUGINS``."""
    return UsageError(f"{word} cannot be in a file, since configurations run no code: put it in the command.")


def _open_dict() -> DictConfig:
    """An empty group that takes any key, where all others take those of the schema alone."""
    return OmegaConf.create({}, flags={"struct": False})


def _schema(name: str, settings: type[Settings], **more: tuple[Any, Any]) -> Any:
    """Makes a mutable dataclass with the keys, types and defaults of some settings, which OmegaConf can fill.

    Other processes unpickle it by ``name``, this module's variable for it (Hydra's submitit launcher). A key of a part
    inside the settings may be absent. ``more``: further keys, with type and default.
    """
    defaults = {each.name: each.default for each in fields(settings)}
    members: list[Any] = []
    for key, type_ in settings.key_types().items():
        default = defaults.get(key)
        if get_origin(type_) is dict:
            members.append((key, type_, field(default_factory=_open_dict)))
        elif default is None or isinstance(default, Settings):
            members.append((key, type_ | None, None))
        elif isinstance(default, tuple):
            members.append((key, type_, field(default_factory=partial(list, default))))
        else:
            members.append((key, type_, MISSING if default is dataclasses.MISSING else default))
    members += [(key, *value) for key, value in more.items()]
    return make_dataclass(name, members, namespace={"__module__": __name__})


DatasetConfig = _schema(
    "DatasetConfig",
    DatasetSettings,
    path=(str | None, None),  # an .npz (CIFAR) or a folder, instead of what prepare_data.py fetched
    workers=(int, 0),  # loader processes; folder data sets only
)
ArchConfig = _schema("ArchConfig", ArchSettings)
MethodConfig = _schema("MethodConfig", MethodSettings, shard=(bool, False))  # U spread over the devices, not copied
PrecisionConfig = _schema("PrecisionConfig", PrecisionSettings)


@dataclass
class EmaConfig:
    ngd: float = MISSING
    newton: float = MISSING


@dataclass
class AdaptiveConfig:
    lr: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])


@dataclass
class MethodDefaults:
    base: str = MISSING
    lr: float = MISSING
    momentum: float | None = None
    betas: list[float] | None = None
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig)  # of adam and adamw beside another base
    weight_decay: float = MISSING
    rho: float = MISSING
    start_step: int = 0
    fisher_rho: float = MISSING
    asam_rho: float = MISSING
    friendly_decay: dict[str, float] = MISSING  # arch -> lambda of F-SAM; `other` for the rest
    structure: str = MISSING
    ema: EmaConfig = field(default_factory=EmaConfig)  # beta of the refresh average, per geometry
    interval: int = MISSING
    refresh_batch: int = MISSING


ProtocolConfig = _schema(
    "ProtocolConfig", ProtocolSettings, methods=(MethodDefaults, field(default_factory=MethodDefaults))
)


@dataclass
class NameConfig:
    """A group whose file says one name: geometry or structure. ``None``: the run has none."""

    name: str | None = None


def _refuse_code(words: Iterable[str]) -> None:
    """Refuse words of a file that would import code: a configuration is read without running any."""
    for word in words:
        if word.partition("=")[0].strip() == PLUGINS:
            raise code_in_a_file(word)


@dataclass
class TableSelection:
    """A hyper-parameter that a table's rows select by their baseline: ``select=<last word of key>``."""

    key: str = MISSING  # protocol.methods.weight_decay
    candidates: list[float] = MISSING
    optim: str = MISSING  # the baseline
    words: list[str] = field(default_factory=list)  # of the baseline's runs alone: dataset.validation=5000
    seeds: list[int] | None = None  # of the baseline's runs; null: the table's

    def __post_init__(self) -> None:
        _refuse_code(self.words)

    @property
    def name(self) -> str:
        """``weight_decay``: what ``select=`` calls it."""
        return self.key.rpartition(".")[2]


@dataclass
class ScaleConfig:
    """How large runs are. The paper's scale leaves everything as it is; a smaller one changes their settings too."""

    name: str = MISSING
    title: str = ""  # in titles of tables, after "at"; the paper's scale has none
    datasets: list[str] = field(default_factory=list)  # that it is for; empty: all
    selections: list[TableSelection] = field(default_factory=list)  # of every table, in the place of its own

    @property
    def is_paper(self) -> bool:
        """Whether it is the paper's scale, which leaves everything as it is."""
        return self.name == "paper"

    def __post_init__(self) -> None:
        require(self.is_paper or bool(self.title), "scale.title", self.title, "is not possible: tables say their scale")


@dataclass
class LoggerConfig:
    """Live logging beside the run record."""

    name: str | None = None  # wandb | null
    mode: str = "offline"  # offline | online
    project: str = "llqr-sam"

    def __post_init__(self) -> None:
        known = self.mode in ("offline", "online")
        require(known, "logger.mode", self.mode, "is not possible. Choose from: offline, online")


@dataclass
class LaunchConfig:
    """Where runs are trained. What is asked of SLURM is the profile's where it is null (slurm/README.md)."""

    name: str = MISSING  # inline | local | slurm
    workers: int | None = None  # local; null: one a GPU, or two on the CPU
    profile: str | None = None  # slurm: a file of slurm/, or the path of one
    time: str | None = None
    array_parallelism: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gres: str | None = None
    constraint: str | None = None
    mem: str | None = None
    cpus: int | None = None
    signal_delay: int | None = None

    def __post_init__(self) -> None:
        require(self.workers is None or self.workers >= 1, "launch.workers", self.workers, "must be >= 1")
        for key, value in vars(self).items():
            launcher = "local" if key == "workers" else "slurm"
            problem = f"has no use with launch={self.name}. It is for launch={launcher}"
            require(key == "name" or value is None or self.name == launcher, f"launch.{key}", value, problem)

    @property
    def asked(self) -> dict[str, Any]:
        """Key -> value, of what the command asks of SLURM in the place of the profile's."""
        others = ("name", "workers", "profile")
        return {key: value for key, value in vars(self).items() if key not in others and value is not None}


# What people call the keys of ``LaunchConfig`` and ``devices``: name -> the words, with the value given.
GUESSES = (
    dict.fromkeys(
        ("gpus", "ngpus", "num_gpus", "gpus_per_node", "devices", "num_devices"),
        "devices={n} trains one run on {n} GPUs, launch.array_parallelism={n} (launch=slurm) or launch.workers={n} "
        "(launch=local) trains {n} runs at once",
    )
    | dict.fromkeys(
        ("nodes", "num_nodes", "tasks", "ntasks", "tasks_per_node"),
        "devices= says how many devices train one run, devices_per_node of the SLURM profile how many a node has",
    )
    | dict.fromkeys(
        ("jobs", "n_jobs", "max_jobs", "parallel", "parallelism", "concurrency", "processes"),
        "launch.array_parallelism={n} (launch=slurm) or launch.workers={n} (launch=local) trains {n} runs at once",
    )
    | dict.fromkeys(
        ("timeout", "timeout_min", "walltime", "time_limit"), "write launch.time={n} (minutes or D-HH:MM:SS)"
    )
    | dict.fromkeys(("memory", "mem_gb", "ram"), "write launch.mem={n}, as for sbatch (16GB)")
    | dict.fromkeys(("cpus_per_task", "cores", "num_cpus", "threads"), "write launch.cpus={n}")
    | dict.fromkeys(("queue",), "write launch.partition={n}")
)


@dataclass
class PathsConfig:
    """Where things lie, relative to the working directory."""

    data: Path = Path("data")
    workspace: Path = Path("outputs/runs")
    results: Path = Path("results")


@dataclass
class PathsSchema:
    """``PathsConfig`` as text, for Hydra: its ``--cfg job`` would print a Path as a Python object."""

    data: str = str(PathsConfig.data)
    workspace: str = str(PathsConfig.workspace)
    results: str = str(PathsConfig.results)


@dataclass
class TableMethod:
    """One column of a table."""

    optim: str = MISSING
    geometry: str | None = None


@dataclass
class EffortConfig:
    """What a kind of device can do in a few minutes."""

    batch: int = MISSING
    inner_steps: int = MISSING
    steps: int = MISSING  # timed together
    bytes_per_parameter: int = MISSING  # of free memory that measuring a network is taken to need


@dataclass
class TimingConfig:
    """A table of times: its networks and methods are timed on random images, not trained."""

    intervals: list[int] = MISSING  # optimizer steps between two refreshes
    steps_per_epoch: int = MISSING
    rounds: int = MISSING
    batch: int | None = None  # null: the device's
    inner_steps: int | None = None  # of the longer refresh that is timed; null: the device's
    gpu: EffortConfig = field(default_factory=EffortConfig)
    cpu: EffortConfig = field(default_factory=EffortConfig)


@dataclass
class TableTwin:
    """A table at another scale: what differs from the table; what is null does not."""

    datasets: list[str] | None = None
    archs: list[str] | None = None
    label_noise: list[float] | None = None
    methods: list[TableMethod] | None = None
    seeds: list[int] | None = None


@dataclass
class TableConfig:
    """What a table runs and how it is laid out."""

    number: str = MISSING
    title: str = MISSING
    words: list[str] = field(default_factory=list)  # of all its runs: protocol.epochs=15; the command's go first
    datasets: list[str] = MISSING
    archs: list[str] = MISSING
    methods: list[TableMethod] = MISSING
    seeds: list[int] = MISSING
    output: str = MISSING  # path without suffix
    label_noise: list[float] = field(default_factory=lambda: [0.0])
    metric: str = "top1"  # top1 | val_bleu
    baseline: str = "sgdm"  # optimizer whose column the others are compared with, where the table has it
    selections: list[TableSelection] = field(default_factory=list)  # each with the choices of those before it
    formats: list[str] = field(default_factory=lambda: list(FORMATS))
    timing: TimingConfig | None = None
    curves: str | None = None  # path of the picture of the metric against epoch
    scales: dict[str, TableTwin] = field(default_factory=dict)  # scale -> the table's twin

    def at(self, scale: ScaleConfig, given: Collection[str] = ()) -> TableConfig:
        """The table at a scale: its twin, with a title that says so and an output beside those of the paper's scale.

        Names in ``given`` keep the table's value. UsageError if the table has no twin at this scale.
        """
        if scale.is_paper:
            return self
        if scale.name not in self.scales:
            raise UsageError(f"table={self.number} has no twin at scale={scale.name}. Leave scale= out.")
        twin = {name: value for name, value in vars(self.scales[scale.name]).items() if value is not None}
        path = Path(self.output)
        output = str(path.with_name(scale.name) / path.name)
        changes = {"title": f"{self.title}, at {scale.title}", "output": output, "selections": scale.selections} | twin
        return replace(self, **{name: value for name, value in changes.items() if name not in given})

    def require_timing(self) -> TimingConfig:
        """``timing``, or a UsageError where the table is not one of times."""
        if self.timing is None:
            raise UsageError(f"table={self.number} has no timing: its runs are trained.")
        return self.timing

    def __post_init__(self) -> None:
        _refuse_code(self.words)
        for name in ("datasets", "archs", "methods", "seeds", "label_noise", "formats"):
            require(bool(getattr(self, name)), f"table.{name}", [], "must have one entry at least")
        unknown = [name for name in self.formats if name not in FORMATS]
        require(not unknown, "table.formats", unknown, f"is not possible. Choose from: {', '.join(FORMATS)}")
        problem = f"is not possible. Choose from: {', '.join(SCORES)}"
        require(self.metric in SCORES, "table.metric", self.metric, problem)


@dataclass
class Config:
    """Where and how runs are carried out, and for which table."""

    launch: LaunchConfig = MISSING
    logger: LoggerConfig = MISSING
    scale: ScaleConfig = MISSING
    table: TableConfig | None = None  # at the scale
    dry_run: bool = False
    status: bool = False
    select: str | None = None  # weight_decay: run the baseline at each candidate and keep the best for the table
    retry: str | None = None  # failed: also runs that failed or diverged
    stale_minutes: float = 10.0
    device: str = "auto"
    devices: int = 1
    plugins: list[str] = field(default_factory=list)  # modules of the user, from the command line alone
    paths: PathsConfig = field(default_factory=PathsConfig)
    checkpoint_minutes: float = 10.0
    keep_weights: bool = False
    sharpness: bool = False
    sharpness_samples: int = 1024  # training samples that it is measured on, at most

    def __post_init__(self) -> None:
        stale, checkpoint = self.stale_minutes, self.checkpoint_minutes
        known = self.retry in (None, "failed")
        require(known, "retry", self.retry, "is not possible. Choose from: null, failed")
        require(self.devices >= 1, "devices", self.devices, "must be >= 1")
        require(self.sharpness_samples >= 1, "sharpness_samples", self.sharpness_samples, "must be >= 1")
        require(0 < stale < math.inf, "stale_minutes", stale, "must be > 0")
        require(0 <= checkpoint < math.inf, "checkpoint_minutes", checkpoint, "must be >= 0")

    @property
    def times_networks(self) -> bool:
        """Whether the table is one of times: its networks are timed here, not trained."""
        return self.table is not None and self.table.timing is not None


@dataclass
class Schema(Config):
    """The whole of conf/, as Hydra checks it."""

    paths: PathsSchema = field(default_factory=PathsSchema)  # type: ignore[assignment]
    dataset: DatasetConfig = MISSING  # type: ignore[valid-type]
    arch: ArchConfig = MISSING  # type: ignore[valid-type]
    optim: MethodConfig = MISSING  # type: ignore[valid-type]
    geometry: NameConfig = MISSING
    structure: NameConfig = MISSING
    protocol: ProtocolConfig = MISSING  # type: ignore[valid-type]
    precision: PrecisionConfig = MISSING  # type: ignore[valid-type]
    seed: int = 0


ConfigStore.instance().store(name="schema", node=Schema)  # which is the first entry of conf/config.yaml
