"""Reads tables for a page that needs each several times, and again while runs go on.

Most of the time goes into planning a table's runs, for each run's configuration is composed. So they are planned once,
and again if a hyper-parameter was selected since.
"""

from __future__ import annotations

from pathlib import Path

from llqr_sam.report.tables.accuracy_table import AccuracyTable, collect
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.plan.plan import Planned, plan
from llqr_sam.suite.status.status import Status

Selections = frozenset[tuple[Path, int]]  # files and when they were written


class TableReader:
    """Tables by the words of their commands: planned once, read once until ``forget``."""

    def __init__(self) -> None:
        self._plans: dict[frozenset[str], tuple[Selections, list[Planned]]] = {}
        self._read: dict[frozenset[str], tuple[Status, AccuracyTable]] = {}

    def read(self, command: Command) -> tuple[Status, AccuracyTable]:
        """The status and the table of a command; errors as of ``collect``."""
        words = frozenset(command.words)
        if words not in self._read:
            selections = _selections(command.config.paths.results)
            planned = self._plans.get(words)
            if planned is None or planned[0] != selections:
                planned = self._plans[words] = selections, plan(command)
            self._read[words] = collect(command, runs=planned[1])
        return self._read[words]

    def forget(self) -> None:
        """The next ``read`` of each table reads its records anew."""
        self._read.clear()


def _selections(results: Path) -> Selections:
    return frozenset((path, path.stat().st_mtime_ns) for path in (results / "selection").glob("*.json"))
