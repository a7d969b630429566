"""From a table's configuration to its cells."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from llqr_sam.report.tables.entries import EntryKind, Table, build_table
from llqr_sam.report.tables.paper_numbers import read_accuracy
from llqr_sam.suite.plan.plan import plan
from llqr_sam.suite.status.status import Status

PLACES = (
    "paths.",
    "device=",
    "devices=",
    "logger",
    "launch",
    "dry_run=",
    "status=",
    "retry=",
    "stale_minutes=",
)  # words that do not say which runs


def collect(config: DictConfig, words: Sequence[str], kind: EntryKind = "best") -> tuple[Status, Table]:
    """The records of a table of trained networks, gathered into its cells.

    Args:
        config: Composed from ``words``, with a table.
        words: The command line's.
        kind: Which accuracy of a run.

    Raises:
        UsageError: records of one data set are of different data.
    """
    paths, table = config.paths, config.table
    status = Status.of(plan(config, words), Path(paths.results), Path(paths.workspace), config.stale_minutes)
    command = shlex.join(["python", "train.py", *(word for word in words if not word.startswith(PLACES))])
    return status, build_table(
        table.number, table.title, command, status, read_accuracy(), kind, baseline=table.baseline, metric=table.metric
    )
