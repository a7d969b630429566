"""From a table's configuration to its cells."""

from __future__ import annotations

import shlex

from llqr_sam.report.tables.entries import EntryKind, Table, build_table
from llqr_sam.report.tables.paper_numbers import read_accuracy
from llqr_sam.suite.config.command import Command
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


def collect(command: Command, kind: EntryKind = "best") -> tuple[Status, Table]:
    """The records of a table of trained networks, gathered into its cells.

    Args:
        command: Names the table.
        kind: Which accuracy of a run.

    Raises:
        UsageError: records of one data set are of different data.
    """
    table = command.table
    status = Status.under(plan(command), command.config)
    typed = shlex.join(["python", "train.py", *(word for word in command.words if not word.startswith(PLACES))])
    return status, build_table(
        table.number, table.title, typed, status, read_accuracy(), kind, baseline=table.baseline, metric=table.metric
    )
