"""What one run is: the settings that decide its result, and its identity.

``RunSettings`` is plain data. conf/ fills it, the trainer reads it, the record keeps it, and ``run_id`` hashes it. What
does not change the result (folders, logging, launching, the device) is not in here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from llqr_sam.engine.settings.evaluate_every import EvaluateEvery
from llqr_sam.methods.curvature.precision import CurvatureDtype
from llqr_sam.methods.factory import MethodSpec

AUTOCASTS = ("float32", "bfloat16")
REFRESHES: dict[str, CurvatureDtype] = {"float32": None, "tf32": "tf32", "bfloat16": torch.bfloat16}
"""In what the network is differentiated when U is refreshed, and what ``LLQR`` calls it."""


@dataclass
class DatasetSettings:
    """Which data, and what is done to it."""

    name: str
    label_noise: float = 0.0  # gamma: fraction of training labels flipped (paper, Table 8)
    crop: str = "image"  # image: one random offset an image; batch: one a batch (the authors' code)


@dataclass
class ArchSettings:
    """Which network."""

    name: str
    width: int | None = None  # channels of the first stage; null: the published width


@dataclass
class ProtocolSettings:
    """How long, how fast and on what batches (docs/methods.md, section 3)."""

    epochs: int
    batch_size: int | None  # samples; null where max_tokens bounds a batch
    schedule: str = "cosine"  # cosine | step | constant | inverse_sqrt; always per optimizer step
    warmup_epochs: float = 0.0
    milestones: list[int] = field(default_factory=list)  # epochs at which `step` multiplies by `gamma`
    gamma: float = 0.1
    label_smoothing: float = 0.0
    augment: bool = True
    evaluate_every: str | None = None  # 2000steps, 2epochs; null: each epoch, and always at the end (evaluate_every.py)
    # translation
    max_tokens: int | None = None  # sentences times the longest of a batch, padding included
    warmup_steps: int | None = None  # of inverse_sqrt
    dropout: float | None = None
    bleu_every: int | None = None  # evaluations between two BLEU scores; the last one always has one

    def __post_init__(self) -> None:
        """One text for each meaning: it is in the run's id.

        Raises:
            ValueError: ``evaluate_every`` is not a number of steps or epochs.
        """
        self.evaluate_every = EvaluateEvery.parse(self.evaluate_every).setting


@dataclass
class PrecisionSettings:
    """How the arithmetic is done."""

    autocast: str = "float32"  # float32 | bfloat16
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    accumulate: int = 1  # micro-batches a minibatch is split into
    cuda_graphs: bool | None = None  # replay each gradient evaluation as one CUDA graph
    fused: bool | None = None  # base optimizer in one kernel; null: PyTorch's choice for the device
    refresh: str | None = None  # float32 (kept as null) | tf32 | bfloat16: the network in refreshes of U

    def __post_init__(self) -> None:
        """One text for each meaning: it is in the run's id, which float32 leaves as it always was."""
        if self.refresh == "float32":
            self.refresh = None

    @property
    def curvature_dtype(self) -> CurvatureDtype:
        """``refresh`` as ``LLQR`` takes it."""
        return REFRESHES[self.refresh or "float32"]


@dataclass
class RunSettings:
    """One run, whole: equal settings give equal weights."""

    dataset: DatasetSettings
    arch: ArchSettings
    optim: MethodSpec
    protocol: ProtocolSettings
    precision: PrecisionSettings
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Nested plain dict without the settings this run has no use for (``None``)."""
        tree = asdict(self)
        if not self.optim.uses_llqr:
            del tree["precision"]["refresh"]
        return _without_none(tree)

    def validate(self) -> None:
        """Check the method and what the trainer alone knows of; data, network and schedule check their own.

        Raises:
            ValueError: one sentence naming the key, the value and what would be right.
        """
        self.optim.validate()
        autocast, accumulate, batch = self.precision.autocast, self.precision.accumulate, self.protocol.batch_size
        if autocast not in AUTOCASTS:
            raise ValueError(f"precision.autocast={autocast} is not known. Choose from: {', '.join(AUTOCASTS)}.")
        if (refresh := self.precision.refresh or "float32") not in REFRESHES:
            raise ValueError(f"precision.refresh={refresh} is not known. Choose from: {', '.join(REFRESHES)}.")
        if batch is not None and not 1 <= accumulate <= batch:
            raise ValueError(f"precision.accumulate={accumulate} must be from 1 to protocol.batch_size={batch}.")
        if self.precision.cuda_graphs and accumulate > 1:
            raise ValueError(f"precision.cuda_graphs=true needs precision.accumulate=1, not {accumulate}.")
        if self.protocol.epochs < 1:
            raise ValueError(f"protocol.epochs={self.protocol.epochs} must be >= 1.")

    @property
    def run_id(self) -> str:
        """``<dataset>-<arch>-<optim>[-<divergence>]-s<seed>-<8 hex digits of the hash of as_dict()>``."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
        parts = [self.dataset.name, self.arch.name, self.optim.name, self.optim.divergence, f"s{self.seed}", digest]
        return "-".join(part for part in parts if part)


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if value is not None
    }
