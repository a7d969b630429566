"""From a run with kept weights to a plain PyTorch module; the data need not be there."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from llqr_sam.engine import plugins
from llqr_sam.engine.records.weights import BEST, NOTE, WEIGHTS, read_note, read_weights
from llqr_sam.engine.tasks.registry import task_for
from llqr_sam.suite.config.errors import UsageError, usage_errors
from llqr_sam.suite.run.lookup import find_run, settings_of

HOW_TO_KEEP = "train it again with keep_weights=true and other folders, paths.results=DIR paths.workspace=DIR"


def kept_weights(folder: Path, *, best: bool = False) -> Path:
    """The last or the best weights in a run's folder; a UsageError that says how to get them if there are none."""
    path = folder / (BEST if best else WEIGHTS)
    if not path.exists():
        raise UsageError(f"{folder.name} has no {path.name} in {folder}: to get its weights, {HOW_TO_KEEP}.")
    return path


@usage_errors()
def load(run: str | Path, results: Path, workspace: Path) -> nn.Module:
    """``llqr_sam.load_network``."""
    plugins.load({})  # the installed ones; others are imported by whoever calls
    known = find_run(str(run), results, workspace)
    path = kept_weights(known.folder)
    if not (known.folder / NOTE).exists():
        raise UsageError(f"{path} has no {NOTE} beside it, for older code wrote it: {HOW_TO_KEEP}.")
    note = read_note(known.folder)
    settings = settings_of(known)
    dataset = settings.dataset
    if note.dataset is None:
        remedy = f"Use scripts/evaluate.py {known.run_id}"
        raise UsageError(
            f"dataset={dataset.name} has its dictionaries in its files, without which no network is. {remedy}"
        )
    state = read_weights(path, note.weights_sha256 if known.record is None else known.record.weights_sha256)
    with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and then replaced
        network = task_for(dataset.reader)(settings).model_of(note.dataset)
    network.load_state_dict(state)
    network.dataset_info = note.dataset  # type: ignore[assignment]  # what its inputs are, for its user
    return network.eval()
