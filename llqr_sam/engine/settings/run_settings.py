"""What one run is: the settings that decide its result, and its identity.

conf/ fills a ``RunSettings``, the trainer reads it, the record keeps it, and ``run_id`` hashes it. An object that
exists is valid: it checks itself when it is made. What does not change the result is in ``RunOptions``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch

from llqr_sam.methods.curvature.point import CurvatureDtype
from llqr_sam.methods.settings import Count, Fraction, MethodSettings, NotNegative, Positive, Rule, Settings, require

S = TypeVar("S", bound=Settings)
Epochs = Annotated[
    tuple[int, ...],
    Rule("must be epochs >= 1 in rising order", lambda n: [*n] == sorted({*n}) and min(n, default=1) >= 1),
]
Split = Annotated[float, Rule("must be in (0, 1)", lambda x: 0 < x < 1)]
_INTERVAL = "must be a number of steps or epochs in one word, like 2000steps or 2epochs; null is 1epochs"
Interval = Annotated[str, Rule(_INTERVAL, re.compile(r"[1-9][0-9]*(steps?|epochs?)").fullmatch)]
REFRESH_DTYPES: dict[str, CurvatureDtype] = {"float32": None, "tf32": "tf32", "bfloat16": torch.bfloat16}


def file_label(text: str) -> str:
    """Returns a name for run ids and files: the last part of a path without .npz, other signs than letters as ``_``."""
    return re.sub(r"\W+", "_", text.rstrip("/").rpartition("/")[2].removesuffix(".npz")).strip("_")


def _make_label(settings: Any) -> None:
    """Puts the label of a name in its place."""
    label = file_label(settings.name)
    settings.require("name", bool(label), "says nothing to call it by in tables: it must have a letter or digit")
    object.__setattr__(settings, "name", label)


@dataclass(frozen=True)
class DatasetSettings(Settings):
    """Which data, and what is done to it."""

    section = "dataset."
    name: str
    subset: Count | None = None  # training images kept, class-balanced, drawn by the seed; null: all
    validation: Count | None = None  # training images that are held out and scored instead of the test images
    label_noise: Fraction = 0.0  # gamma: fraction of training labels flipped (paper, Table 8)
    crop: Literal["image", "batch"] = "image"  # one random offset an image, or one a batch (the authors' code)
    source: str | None = None  # who reads it: folder, npz, torchvision or another data set's name; null: `name`
    image_size: Count | None = None  # side that images are resized to; null: 64 in a folder, else their own
    test_fraction: Split | None = None  # of the images, where there are none to test on; null: 0.2
    collection: str | None = None  # class of torchvision.datasets: FashionMNIST
    flip: bool | None = None  # mirror half of the training images; null: the data set's own habit

    def __post_init__(self) -> None:
        """Makes the name one for files; raises ``SettingError``."""
        super().__post_init__()
        _make_label(self)

    @property
    def reader(self) -> str:
        """Returns the name in the registry of data sets."""
        return self.source or self.name

    @property
    def whole(self) -> DatasetSettings:
        """Returns what is read, before anything is done to it."""
        kept = {key: getattr(self, key) for key in ("source", "image_size", "test_fraction", "collection")}
        return DatasetSettings(self.name, **kept)


@dataclass(frozen=True)
class ArchSettings(Settings):
    """Which network."""

    section = "arch."
    name: str
    width: Count | None = None  # channels of the first stage; null: the published width
    source: str | None = None  # who builds it: timm, torchvision or another network's name; null: `name`
    model: str | None = None  # of timm or torchvision
    pretrained: bool | None = None  # start from the library's weights; null: random ones
    args: dict[str, Any] | None = None  # further arguments of the builder

    def __post_init__(self) -> None:
        """Makes the name one for files, and no arguments ``None``; raises ``SettingError``."""
        super().__post_init__()
        _make_label(self)
        object.__setattr__(self, "args", self.args or None)
        object.__setattr__(self, "pretrained", self.pretrained or None)

    @property
    def builder(self) -> str:
        """Returns the name in the registry of networks."""
        return self.source or self.name

    @property
    def options(self) -> dict[str, Any]:
        """Returns what the builder is told beside classes, channels and image size."""
        return {key: getattr(self, key) for key in ("width", "model", "pretrained", "args")}


@dataclass(frozen=True)
class ProtocolSettings(Settings):
    """How long, how fast and on what batches (docs/methods.md, section 3)."""

    section = "protocol."
    epochs: Count
    batch_size: Count | None = None  # samples; null where max_tokens bounds a batch
    schedule: Literal["cosine", "step", "constant", "inverse_sqrt"] = "cosine"  # always per optimizer step
    warmup_epochs: NotNegative = 0.0
    milestones: Epochs = ()  # at which `step` multiplies by `gamma`
    gamma: Positive = 0.1
    label_smoothing: Fraction = 0.0
    augment: bool = True
    evaluate_every: Interval | None = None  # 2000steps, 2epochs; null: each epoch. The last is at the end of training
    # translation
    max_tokens: Count | None = None  # sentences times the longest of a batch, padding included
    warmup_steps: Count | None = None  # of inverse_sqrt
    dropout: Fraction | None = None
    bleu_every: Count | None = None  # evaluations between two BLEU scores; the last one always has one

    def __post_init__(self) -> None:
        """Checks each value, and that the values fit together; raises ``SettingError``."""
        super().__post_init__()
        epochs, steps = self.warmup_epochs, self.warmup_steps
        self.require("warmup_epochs", epochs < self.epochs, f"must be less than protocol.epochs={self.epochs}")
        self.require("warmup_epochs", not (epochs and steps), f"must be 0 beside protocol.warmup_steps={steps}")
        rule = f"does not fit protocol.schedule={self.schedule}: inverse_sqrt needs a number of steps, any other null"
        self.require("warmup_steps", (self.schedule == "inverse_sqrt") == (steps is not None), rule)
        if self.evaluate_every is not None:  # one text for each meaning, since it is in the run's id
            text = self.evaluate_every.rstrip("s") + "s"
            object.__setattr__(self, "evaluate_every", None if text == "1epochs" else text)

    def steps_between_evaluations(self, steps_per_epoch: int) -> int:
        """Returns ``evaluate_every`` in optimizer steps."""
        text = self.evaluate_every or "1epochs"
        number = int(text.rstrip("epochst"))
        return number * steps_per_epoch if text.endswith("epochs") else number

    def learning_rate(self, step: int, base_lr: float, steps_per_epoch: int) -> float:
        """Rate of optimizer step ``step``, from 0, and a function of it alone; ``base_lr`` is the rate at factor 1."""
        warmup = self.warmup_steps or round(self.warmup_epochs * steps_per_epoch)
        factor = 1.0
        if self.schedule == "inverse_sqrt":  # fairseq's
            factor = min(step / warmup, math.sqrt(warmup / max(step, 1)))
        elif step < warmup:
            factor = (step + 1) / warmup
        elif self.schedule == "cosine":  # 0 at the end of training
            total = self.epochs * steps_per_epoch
            factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
        elif self.schedule == "step":  # milestones count from the start of training
            factor = self.gamma ** sum(epoch * steps_per_epoch <= step for epoch in self.milestones)
        return base_lr * factor


@dataclass(frozen=True)
class PrecisionSettings(Settings):
    """How the arithmetic is done."""

    section = "precision."
    autocast: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    accumulate: Count = 1  # micro-batches a minibatch is split into
    cuda_graphs: bool | None = None  # replay each gradient evaluation as one CUDA graph
    fused: bool | None = None  # base optimizer in one kernel; null: PyTorch's choice for the device
    refresh: Literal["float32", "tf32", "bfloat16"] | None = None  # of the network in refreshes of U; null: float32

    def __post_init__(self) -> None:
        """Checks each value, and that the values fit together; raises ``SettingError``."""
        super().__post_init__()
        whole = not self.cuda_graphs or self.accumulate == 1
        self.require("accumulate", whole, "must be 1 beside precision.cuda_graphs=true")
        if self.refresh == "float32":  # one text for each meaning, since it is in the run's id
            object.__setattr__(self, "refresh", None)

    @property
    def curvature_dtype(self) -> CurvatureDtype:
        """``refresh`` as ``LLQR`` takes it."""
        return REFRESH_DTYPES[self.refresh or "float32"]


@dataclass(frozen=True)
class RunSettings:
    """One run, whole: equal settings give equal weights."""

    dataset: DatasetSettings
    arch: ArchSettings
    optim: MethodSettings
    protocol: ProtocolSettings
    precision: PrecisionSettings
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks that the parts fit together; raises ``SettingError``."""
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be in [0, 2^63)")
        accumulate, batch = self.precision.accumulate, self.protocol.batch_size
        fits = batch is None or accumulate <= batch
        require(fits, "precision.accumulate", accumulate, f"must be from 1 to protocol.batch_size={batch}")

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> RunSettings:
        """Inverse of ``as_dict``; keys that are not a run's are left out. Raises ValueError at a bad value."""
        return cls(
            dataset=_part(DatasetSettings, tree["dataset"]),
            arch=_part(ArchSettings, tree["arch"]),
            optim=MethodSettings.from_keys({key: tree["optim"].get(key) for key in MethodSettings.key_types()}),
            protocol=_part(ProtocolSettings, tree["protocol"]),
            precision=_part(PrecisionSettings, tree["precision"]),
            seed=tree["seed"],
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns a nested plain dict without the settings this run has no use for (``None``)."""
        tree: dict[str, Any] = {
            name: part.as_keys() if isinstance(part, Settings) else part for name, part in vars(self).items()
        }
        if self.optim.llqr is None:
            tree["precision"].pop("refresh", None)
        return tree

    @property
    def run_id(self) -> str:
        """``<dataset>-<arch>-<optim>[-<divergence>]-s<seed>-<8 hex digits of the hash of as_dict()>``."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
        parts = [self.dataset.name, self.arch.name, self.optim.name, self.optim.divergence, f"s{self.seed}", digest]
        return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class RunOptions:
    """How and where a run is carried out; nothing here changes its result."""

    workspace: Path  # checkpoints, logs and kept weights: workspace/<run_id>/
    record_path: Path  # or beside it, if the name is taken
    data_path: Path | None = None  # archive or folder of the data set; None: under data_root
    data_root: Path = Path("data")
    device: str = "auto"  # auto | cpu | cuda | cuda:<index>
    devices: int = 1  # ranks, one a device
    shard: bool = False  # LLQR's U spread over the ranks
    workers: int = 4  # processes that read folder data sets
    checkpoint_minutes: float = 10.0  # wall time between checkpoints
    keep_weights: bool = False  # write weights.pt at the end and, in translation, best.pt at the best BLEU
    sharpness_rho: float | None = None  # measure sharpness at the end, m-sharpness at this radius; None: do not
    sharpness_samples: int = 1024  # training samples it is measured on, at most
    git: tuple[str | None, bool] | None = None  # commit of the code and whether it was changed; None: look


def _part(kind: type[S], values: Mapping[str, Any]) -> S:
    """Makes settings from plain values; lists become tuples."""
    own = {field.name: values[field.name] for field in fields(kind) if field.name in values}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in own.items()})
