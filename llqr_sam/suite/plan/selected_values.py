"""Hyper-parameters that a table's rows select by their baseline: the candidates, and what was chosen.

A choice is kept in ``results/selection/<name>-<dataset>-<arch>-<digest>.json``, written once and for good. The digest
is that of the baseline's runs at all candidates, so a choice holds for whatever table runs the same baseline, and for
no other protocol or precision. Settings of a method (``optim.lr=``, ``structure=``) are not the baseline's.
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
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.config.schema import TableSelection

METHOD = ("optim", "geometry", "structure")  # groups whose words do not reach the baseline


@dataclass(frozen=True)
class Choice:
    """The value that runs of a data set and network have of a hyper-parameter, and why."""

    key: str  # protocol.methods.weight_decay
    dataset: str
    arch: str
    value: float
    origin: Literal["selected", "default", "candidate"]
    path: Path  # of the selection, whether it is made or not

    @property
    def name(self) -> str:
        """``weight_decay``: what ``select=`` calls it."""
        return _last(self.key)

    @property
    def word(self) -> str:
        """The word that sets it: ``protocol.methods.weight_decay=0.001``."""
        return f"{self.key}={self.value!r}"

    def __str__(self) -> str:
        value = f"{self.name}={self.value:g} for {self.dataset} {self.arch}"
        if self.origin == "selected":
            return f"{value}: selected ({self.path})"
        return f"{value}: the protocol's, nothing is selected (select={self.name})"


def check_select(command: Command) -> None:
    """Refuse words that leave ``select=`` nothing to select.

    Raises:
        UsageError: such a word, or the table has no such selection.
    """
    if (selection := command.selection) is None:
        return
    for word in command.words:
        if _of_method(word) or word.startswith("dataset.label_noise=") or _given(selection.key, [word]):
            raise UsageError(f"{word} has no use with select={selection.name}: dataset, arch and seed choose its runs.")


def choices(command: Command, row: Command) -> tuple[Choice, ...]:
    """What the runs of a table's row use of each hyper-parameter that the table selects, up to ``select=``.

    Args:
        command: Names the table.
        row: Data set, network and the words that hold for every run of the table. One that sets a hyper-parameter
            itself leaves nothing to choose.

    Raises:
        UsageError: the file of a selection is damaged.
    """
    made: list[Choice] = []
    for selection in command.table.selections:
        if selection.name == command.config.select:
            break
        if not _given(selection.key, row.words):
            default, found = _candidates(command, selection, row, made)
            made.append(read_choice(found) or default)
    return tuple(made)


def candidates(command: Command, row: Command) -> list[tuple[Choice, ...]]:
    """For each candidate of ``select=`` what its runs use: the choices before it, and itself at the end."""
    assert command.selection is not None
    made = choices(command, row)
    _, found = _candidates(command, command.selection, row, made)
    return [(*made, candidate) for candidate in found]


def read_choice(found: Sequence[Choice]) -> Choice | None:
    """The one of the candidates that was chosen, if the selection is made.

    Raises:
        UsageError: its file is damaged.
    """
    first = found[0]
    try:
        chosen = json.loads(first.path.read_bytes())["choice"]
        (choice,) = [candidate for candidate in found if candidate.value == chosen]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{first.path} is not a selection: remove it and select again with select={first.name}."
        ) from error
    return replace(choice, origin="selected")


def write_choice(chosen: Choice, tree: dict[str, Any]) -> None:
    """Keep a choice, once and for good: a selection that is made already stays.

    Args:
        chosen: The candidate.
        tree: What it was chosen from, for a reader.
    """
    content = tree | {"choice": chosen.value}
    with contextlib.suppress(FileExistsError), creating(chosen.path) as file:
        file.write((json.dumps(content, sort_keys=True, indent=1) + "\n").encode())


def _of_method(word: str) -> bool:
    return word.partition("=")[0].partition(".")[0] in METHOD


def _given(key: str, words: Sequence[str]) -> bool:
    """Whether a word sets the hyper-parameter, for the protocol or the method."""
    return any(_last(word.partition("=")[0]) == _last(key) for word in words)


def _last(key: str) -> str:
    """``weight_decay`` of ``protocol.methods.weight_decay``."""
    return key.rpartition(".")[2]


def _candidates(
    command: Command, selection: TableSelection, row: Command, before: Sequence[Choice]
) -> tuple[Choice, list[Choice]]:
    """The protocol's value, and the candidates."""
    words = [word for word in row.words if not _of_method(word)]
    words += [f"optim={selection.optim}", *(choice.word for choice in before if choice.origin != "default")]
    baseline = Command.of(*words)
    runs = sorted(baseline.but(f"{selection.key}={value!r}").run.settings.run_id for value in selection.candidates)
    dataset, arch = baseline.run.settings.dataset.name, baseline.run.settings.arch.name
    digest = hashlib.sha256("\n".join(runs).encode()).hexdigest()[:8]
    path = command.config.paths.results / "selection" / f"{selection.name}-{dataset}-{arch}-{digest}.json"
    default = Choice(selection.key, dataset, arch, baseline.value(selection.key), "default", path)
    return default, [replace(default, value=value, origin="candidate") for value in selection.candidates]
