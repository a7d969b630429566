"""Kept weights of a run: ``weights.pt``, a plain state dict, and ``weights.json``, which says of which network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llqr_sam.data.streams import DatasetInfo
from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.records.provenance import weights_sha256
from llqr_sam.engine.records.record import Record
from llqr_sam.engine.records.typed_json import read, to_json

WEIGHTS, BEST, NOTE = "weights.pt", "best.pt", "weights.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class WeightsNote:
    """What a network must be built from to hold the weights, and how its inputs are made."""

    schema: int
    run_id: str
    config: dict[str, Any]  # RunSettings.as_dict()
    weights_sha256: str
    dataset: DatasetInfo | None = None  # images; None: sentences, whose dictionaries are in the data set


def keep_weights(folder: Path, model: nn.Module, record: Record, dataset: DatasetInfo | None) -> None:
    """Write both files into the run's folder, or replace them."""
    note = WeightsNote(SCHEMA_VERSION, record.run_id, record.config, record.weights_sha256, dataset)
    with replacing(folder / NOTE) as file:
        file.write(to_json(note).encode())
    with replacing(folder / WEIGHTS) as file:
        torch.save(model.state_dict(), file)


def read_note(folder: Path) -> WeightsNote:
    """The note of a run's folder; FileNotFoundError, or ``typed_json.DamagedRecordError``."""
    return read(WeightsNote, folder / NOTE, SCHEMA_VERSION)


def read_weights(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """The state dict in ``path``, on the CPU; no code of the file is run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a file of weights, or their hash is not ``sha256`` (None: they are not compared).
    """
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        found = weights_sha256(state)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch and pickle raise almost anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} does not hold weights: {reason}") from error
    if sha256 is not None and found != sha256:
        raise ValueError(f"{path} holds other weights, {found[:12]}, than the run's, {sha256[:12]}.")
    return state
