"""Hyper-parameters that a table selects by its baseline: the candidates, and the value that was chosen.

A choice is kept in ``results/selection/<name>-<dataset>-<arch>-<digest>.json`` and never changed. The digest hashes the
run ids of the baseline at all candidates, so tables with the same baseline, protocol and precision share a choice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llqr_sam.engine.records.atomic import creating
from llqr_sam.suite.config.command import METHOD, Command, root
from llqr_sam.suite.config.errors import UsageError


@dataclass(frozen=True)
class Choice:
    """The value of a hyper-parameter that the runs of a table's row use, and where it comes from."""

    key: str  # protocol.methods.weight_decay
    name: str  # weight_decay: what ``select=`` calls it
    dataset: str
    arch: str
    value: float
    origin: Literal["selected", "default", "candidate"]
    path: Path  # of the selection's file, which exists once a value is selected

    def __str__(self) -> str:
        value = f"{self.name}={self.value:g} for {self.dataset} {self.arch}"
        if self.origin == "selected":
            return f"{value}: selected ({self.path})"
        return f"{value}: the protocol's, nothing is selected (select={self.name})"


def choices(command: Command, row: Command) -> list[tuple[Choice, ...]]:
    """The values that a row of the command's table uses of each hyper-parameter that the table selects.

    A hyper-parameter that a word of the row sets is not selected. Returns one tuple; with ``select=`` one for each
    candidate: the values selected before it, and the candidate.
    """
    used: list[Choice] = []
    words = [word for word in row.words if root(word) not in METHOD]  # optim.lr= does not reach the baseline
    for selection in command.table.selections:
        if row.sets(selection.name):
            continue
        baseline = Command.of(*words, f"optim={selection.optim}", *selection.words, *words_of(used))
        alternatives = [baseline.with_words(f"{selection.key}={value!r}") for value in selection.candidates]
        runs = sorted(alternative.settings.run_id for alternative in alternatives)
        name, dataset, arch = selection.name, baseline.settings.dataset.name, baseline.settings.arch.name
        digest = hashlib.sha256("\n".join(runs).encode()).hexdigest()[:8]
        path = command.config.paths.results / "selection" / f"{name}-{dataset}-{arch}-{digest}.json"
        default = Choice(selection.key, name, dataset, arch, baseline.value(selection.key), "default", path)
        candidates = [replace(default, value=value, origin="candidate") for value in selection.candidates]
        if selection == command.selection:
            return [(*used, candidate) for candidate in candidates]
        used.append(read_choice(candidates) or default)
    return [tuple(used)]


def words_of(used: Sequence[Choice]) -> list[str]:
    """The words that set the values; the protocol's own need none."""
    return [f"{choice.key}={choice.value!r}" for choice in used if choice.origin != "default"]


def read_choice(candidates: Sequence[Choice]) -> Choice | None:
    """The candidate that was selected, or ``None``; a damaged file is a UsageError."""
    first = candidates[0]
    try:
        chosen = json.loads(first.path.read_bytes())["choice"]
        (choice,) = [candidate for candidate in candidates if candidate.value == chosen]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        remedy = f"remove it and select again with select={first.name}"
        raise UsageError(f"{first.path} is not a selection: {remedy}.") from error
    return replace(choice, origin="selected")


def write_choice(chosen: Choice, tree: dict[str, Any]) -> None:
    """Writes a choice with the numbers that it was made by, unless one was written before."""
    content = tree | {"choice": chosen.value}
    with contextlib.suppress(FileExistsError), creating(chosen.path) as file:
        file.write((json.dumps(content, sort_keys=True, indent=1) + "\n").encode())
