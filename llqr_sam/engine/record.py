"""The run record: all that a table is made from, one JSON file a run.

A record is written once, at the end of a run, never half and never over another: see ``llqr_sam.engine.atomic``. Equal
runs give equal bytes but for times. A number that is not finite is ``null``; a record that does not fit the dataclasses
below, key by key and type by type, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llqr_sam.engine.atomic import creating
from llqr_sam.engine.typed_json import from_json, one_line, to_json

SCHEMA_VERSION = 1


class DamagedRecordError(ValueError):
    """A record that cannot be read: the message is one line with the file and the reason."""


@dataclass(frozen=True)
class Accuracy:
    """Test top-1 in percent and the epoch it was reached in (``None`` and 0: no epoch was finished)."""

    top1: float | None
    epoch: int


@dataclass(frozen=True)
class CurvePoint:
    """One evaluated epoch."""

    epoch: int  # finished epochs, from 1
    step: int  # finished optimizer steps
    lr: float  # learning rate of the last step
    train_loss: float | None  # mean over the epoch's minibatches, at theta
    test_loss: float | None  # mean cross-entropy over the test samples
    top1: float  # percent
    seconds: float  # since the start of the run, over resumes


@dataclass(frozen=True)
class Metrics:
    """Best and last test accuracy, and how they were reached."""

    best: Accuracy
    last: Accuracy
    curve: list[CurvePoint]

    @classmethod
    def from_curve(cls, curve: list[CurvePoint]) -> Metrics:
        """Best is the first epoch that reaches the maximum."""
        if not curve:
            return cls(best=Accuracy(None, 0), last=Accuracy(None, 0), curve=[])
        best = max(curve, key=lambda point: point.top1)
        last = curve[-1]
        return cls(Accuracy(best.top1, best.epoch), Accuracy(last.top1, last.epoch), list(curve))


@dataclass(frozen=True)
class RefreshPoint:
    """What one refresh of LLQR's U did (METHODS section 2)."""

    step: int  # optimizer steps finished before it
    objective_before: float | None  # J(U)
    objective_after: float | None
    relative_change: float | None  # |U g - g| / |g|
    fallbacks: int  # perturbations since the last refresh that fell back to the Euclidean norm
    seconds: float


@dataclass(frozen=True)
class Sharpness:
    """How flat the training loss is at the end (llqr_sam.engine.sharpness has the definitions)."""

    eigenvalues: list[float]  # of the Hessian, the largest, largest first
    trace: float | None  # of the Hessian
    m_sharpness: float | None
    rho: float  # of m-sharpness
    m: int  # samples in its minibatches
    samples: int  # training samples that all of it is measured on
    seconds: float


@dataclass(frozen=True)
class Seconds:
    """Wall time of a run by part; what the parts leave of the total is updates, checkpoints and start-up."""

    data: float
    first_pass: float
    second_pass: float
    refresh: float
    evaluation: float
    total: float


@dataclass(frozen=True)
class Record:
    """One run, ended."""

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
    sharpness: Sharpness | None = None  # where it was asked for

    def to_json(self) -> str:
        """Sorted keys, one space of indent, a newline at the end."""
        return to_json(self)

    def write(self, path: Path) -> Path:
        """Create the file ``path``, or where that is taken the first free of ``<stem>.2.json``, ``<stem>.3.json``, ...

        Returns:
            The file: whole, and new.
        """
        free, number = path, 1
        while True:
            try:
                with creating(free) as file:
                    file.write(self.to_json().encode())
                return free
            except FileExistsError:
                if not free.exists():
                    raise  # a folder above it is a file
                number += 1
                free = path.with_suffix(f".{number}{path.suffix}")


def read_record(path: Path) -> Record:
    """Read and check one record.

    Raises:
        DamagedRecordError: not JSON, another schema version, or a missing, unknown or mistyped key.
    """
    try:
        return from_json(Record, path.read_bytes(), SCHEMA_VERSION)
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(f"{path}: {one_line(error)}") from error


def read_records(folder: Path) -> tuple[list[Record], list[tuple[Path, str]]]:
    """Read every ``*.json`` under ``folder``, in the order of their paths.

    Returns:
        The records, and for each file that could not be read its path and the reason.
    """
    records: list[Record] = []
    damaged: list[tuple[Path, str]] = []
    for path in sorted(folder.rglob("*.json")):
        try:
            records.append(from_json(Record, path.read_bytes(), SCHEMA_VERSION))
        except (ValueError, RecursionError, OSError) as error:
            damaged.append((path, one_line(error)))
    return records, damaged
