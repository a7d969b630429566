"""The run record: everything that a table is made from, one JSON file a run.

A record is written once, at the end of a run, completely and never over another (``atomic.py``). Equal runs give equal
bytes except for times. ``typed_json.py`` has the format; a file that does not fit the dataclasses below is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llqr_sam.data.streams import Samples
from llqr_sam.engine.records.atomic import creating, replacing
from llqr_sam.engine.records.typed_json import read, read_all, to_json

SCHEMA_VERSION = 1
KEPT = "record.json"  # in a run's folder: its record, until it can be written where it belongs


class UnwrittenRecordError(OSError):
    """A run has ended and its record cannot be written (a full disk); the message is one line."""


def epoch_words(epoch: float) -> str:
    """``17``, or ``5.13`` in the middle of one."""
    return f"{round(epoch, 2):.10g}"


@dataclass(frozen=True)
class Accuracy:
    """Test top-1 in percent and the epoch after which it was reached; ``None`` and 0 without an evaluation."""

    top1: float | None
    epoch: int | float  # int for a whole number
    bleu: float | None = None  # translation only

    @property
    def score(self) -> float | None:
        """What runs are compared by: BLEU in translation, else top-1."""
        return self.top1 if self.bleu is None else self.bleu

    @property
    def unit(self) -> str:
        """Unit of the score."""
        return "%" if self.bleu is None else "BLEU"

    @property
    def words(self) -> str:
        """The score with its unit: ``81.82 %``, ``34.24 BLEU``."""
        return f"{self.score:.2f} {self.unit}"


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation; in translation on the validation pairs, per token instead of per sample."""

    epoch: int | float  # step / steps per epoch; int for a whole number
    step: int  # finished optimizer steps
    lr: float  # learning rate of the last step
    train_loss: float | None  # mean over the minibatches since the last evaluation, at theta
    test_loss: float | None  # mean cross-entropy over the test samples
    top1: float  # percent
    seconds: float  # since the start of the run, over resumes
    perplexity: float | None = None  # translation: exp(test_loss)
    token_error: float | None = None  # translation: percent of tokens, 100 - top1
    bleu: float | None = None  # translation: fairseq's, of tokenised text; every protocol.bleu_every evaluations
    sacrebleu: float | None = None  # translation: of detokenised text

    @property
    def score(self) -> float | None:
        """What evaluations are compared by: BLEU in translation (``None``: not scored), else top-1."""
        return self.top1 if self.perplexity is None else self.bleu

    @property
    def unit(self) -> str:
        """Unit of the score."""
        return "%" if self.perplexity is None else "BLEU"

    @property
    def accuracy(self) -> Accuracy:
        """This evaluation as the best or the last one."""
        return Accuracy(self.top1, self.epoch, self.bleu)


@dataclass(frozen=True)
class Scoring:
    """How translations were scored, and the scores of the source copied as its own translation."""

    sacrebleu_signature: str
    copy_bleu: float
    copy_sacrebleu: float


@dataclass(frozen=True)
class Metrics:
    """Best and last test score, and how they were reached."""

    best: Accuracy
    last: Accuracy
    curve: list[CurvePoint]
    scoring: Scoring | None = None  # translation
    best_of: int | None = None  # evaluations with a score; None in older records, where ``scored`` counts them

    @classmethod
    def from_curve(cls, curve: list[CurvePoint], scoring: Scoring | None = None) -> Metrics:
        """Best is the first evaluation that reaches the maximum, last the last one with a score."""
        scored = [point.accuracy for point in curve if point.score is not None]
        best = max(scored, key=lambda accuracy: accuracy.score or 0.0, default=Accuracy(None, 0))
        return cls(best, scored[-1] if scored else best, list(curve), scoring, len(scored))

    @property
    def scored(self) -> int:
        """Number of evaluations that the best was chosen from."""
        return sum(point.score is not None for point in self.curve)


@dataclass(frozen=True)
class RefreshPoint:
    """What one refresh of LLQR's U did (docs/methods.md, section 2.5)."""

    step: int  # optimizer steps finished before it
    objective_before: float | None  # J(U)
    objective_after: float | None
    relative_change: float | None  # |U g - g| / |g|
    fallbacks: int  # perturbations since the last refresh that used the Euclidean norm
    seconds: float
    unreplayed: str | None = None  # why no trace could be replayed; products then cost twice as much


@dataclass(frozen=True)
class Flatness:
    """How flat the training loss is at the end (definitions: llqr_sam.engine.measurements.flatness)."""

    eigenvalues: list[float]  # largest of the Hessian, in descending order
    trace: float | None  # of the Hessian
    m_sharpness: float | None
    rho: float  # of m-sharpness
    m: int  # samples in its minibatches
    samples: int  # training samples used
    seconds: float


@dataclass(frozen=True)
class Seconds:
    """Wall time of a run by part; the rest of the total is updates, checkpoints and start-up."""

    data: float
    first_pass: float
    second_pass: float
    refresh: float
    evaluation: float
    total: float


@dataclass(frozen=True)
class Record:
    """One run that has ended."""

    schema: int
    run_id: str
    status: Literal["finished", "diverged"]
    error: str | None
    config: dict[str, Any]  # RunSettings.as_dict()
    git_commit: str | None
    git_dirty: bool
    packages: dict[str, str]
    device: str
    parameters: int
    metrics: Metrics
    refreshes: list[RefreshPoint]
    weights_sha256: str
    seconds: Seconds
    started: str  # ISO 8601, UTC
    resumes: int
    sharpness: Flatness | None = None  # with sharpness=true
    devices: int = 1  # that trained it together, at the end
    data_sha256: str | None = None  # of all samples, or of their names (ImageNet)
    samples: Samples | None = None  # their number (translation: pairs); None in older records

    @property
    def device_seconds(self) -> float:
        """Wall time times devices."""
        return self.seconds.total * self.devices

    def write(self, path: Path) -> Path:
        """Create and return ``path`` or, if it exists, the first free of ``<stem>.2.json``, ``<stem>.3.json``, ..."""
        free, number = path, 1
        while True:
            try:
                with creating(free) as file:
                    file.write(to_json(self).encode())
                return free
            except FileExistsError:
                if not free.exists():
                    raise  # a folder above it is a file
                number += 1
                free = path.with_suffix(f".{number}{path.suffix}")

    def write_or_keep(self, path: Path, folder: Path) -> Path:
        """``write``; where that is impossible, keep it as ``KEPT`` in ``folder`` and raise UnwrittenRecordError."""
        try:
            return self.write(path)
        except OSError as error:
            problem = f"its record {path} cannot be written: {error.strerror}"
            try:
                with replacing(folder / KEPT) as file:
                    file.write(to_json(self).encode())
            except OSError:
                remedy = f"nor {folder / KEPT}; the next launch continues from the last checkpoint"
            else:
                remedy = f"it is kept in {folder / KEPT}, and the next launch writes it"
            raise UnwrittenRecordError(f"{problem}; {remedy}") from error


def read_record(path: Path) -> Record:
    """One record (``typed_json.read``)."""
    return read(Record, path, SCHEMA_VERSION)


def read_records(folder: Path) -> tuple[list[Record], list[str]]:
    """Every ``*.json`` under ``folder``, in the order of their paths (``typed_json.read_all``)."""
    return read_all(Record, sorted(folder.rglob("*.json")), SCHEMA_VERSION)
