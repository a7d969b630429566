"""The types of conf/: what a key may be, registered with Hydra so that a wrong type or an unknown key is refused."""

from __future__ import annotations

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from llqr_sam.engine.settings.run_settings import ArchSettings, DatasetSettings, PrecisionSettings, ProtocolSettings
from llqr_sam.methods.factory import MethodSpec


@dataclass
class DatasetConfig(DatasetSettings):
    """A data set and where it lies."""

    path: str | None = None  # an .npz (CIFAR) or a folder, instead of what prepare_data.py fetched
    workers: int = 0  # loader processes; folder data sets only


@dataclass
class MethodConfig(MethodSpec):
    """A method and how its metric is stored."""

    shard: bool = False  # U's blocks spread over the devices, instead of a copy on each


@dataclass
class EmaConfig:
    """beta of the refresh average, per geometry."""

    ngd: float = MISSING
    newton: float = MISSING


@dataclass
class AdaptiveConfig:
    """Adam and AdamW as methods of their own."""

    lr: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])


@dataclass
class MethodDefaults:
    base: str = MISSING
    lr: float = MISSING
    momentum: float | None = None
    betas: list[float] | None = None
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig)
    weight_decay: float = MISSING
    rho: float = MISSING
    start_step: int = 0
    fisher_rho: float = MISSING
    asam_rho: float = MISSING
    friendly_decay: dict[str, float] = MISSING  # arch -> lambda of F-SAM; `other` for the rest
    structure: str = MISSING
    ema: EmaConfig = field(default_factory=EmaConfig)
    interval: int = MISSING
    refresh_batch: int = MISSING


@dataclass
class ProtocolConfig(ProtocolSettings):
    """How long and how fast, and the numbers of the methods under this protocol."""

    methods: MethodDefaults = field(default_factory=MethodDefaults)


@dataclass
class Choice:
    """A group whose file says one name; ``None``: this run has none."""

    name: str | None = None


@dataclass
class LoggerConfig:
    """Live logging beside the run record."""

    name: str | None = None  # wandb | null
    mode: str = "offline"  # offline | online
    project: str = "llqr-sam"


@dataclass
class LaunchConfig:
    """Where runs are trained."""

    name: str = MISSING  # inline | local | slurm
    workers: int | None = None  # local; null: one a GPU, or two on the CPU
    profile: str | None = None  # slurm: a file of slurm/, or the path of one


@dataclass
class PathsConfig:
    """Where things lie, relative to the working directory."""

    data: str = "data"
    workspace: str = "outputs/runs"
    results: str = "results"


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
class TableSelection:
    """A hyper-parameter that a table's rows select by their baseline: ``select=<last word of key>``."""

    key: str = MISSING  # protocol.methods.weight_decay
    candidates: list[float] = MISSING
    optim: str = MISSING  # the baseline


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
    formats: list[str] = field(default_factory=lambda: ["md", "csv", "tex"])
    timing: TimingConfig | None = None
    curves: str | None = None  # path of the picture of the metric against epoch


@dataclass
class Config:
    """The whole of conf/: the run, then where and how."""

    dataset: DatasetConfig = MISSING
    arch: ArchSettings = MISSING
    optim: MethodConfig = MISSING
    geometry: Choice = MISSING
    structure: Choice = MISSING
    protocol: ProtocolConfig = MISSING
    precision: PrecisionSettings = MISSING
    seed: int = 0
    table: TableConfig | None = None
    launch: LaunchConfig = MISSING
    logger: LoggerConfig = MISSING
    dry_run: bool = False
    status: bool = False
    select: str | None = None  # weight_decay: run the baseline at each candidate and keep the best for the table
    retry: str | None = None  # failed: also runs that failed or diverged
    stale_minutes: float = 10.0
    device: str = "auto"
    devices: int = 1
    paths: PathsConfig = field(default_factory=PathsConfig)
    checkpoint_minutes: float = 10.0
    keep_weights: bool = False
    sharpness: bool = False


def register() -> None:
    """Make the schema known to Hydra as ``schema``, the first entry of conf/config.yaml."""
    ConfigStore.instance().store(name="schema", node=Config)
