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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from llqr_sam.engine.records.atomic import creating
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.config.compose import compose_config
from llqr_sam.suite.config.errors import UsageError, did_you_mean
from llqr_sam.suite.config.resolve import run_settings

SCORES = {"top1": "test top-1", "val_bleu": "validation BLEU"}  # a table's metric -> what is best over training
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
        return last(self.key)

    def __str__(self) -> str:
        value = f"{self.name}={self.value:g} for {self.dataset} {self.arch}"
        if self.origin == "selected":
            return f"{value}: selected ({self.path})"
        return f"{value}: the protocol's, nothing is selected (select={self.name})"


def last(key: str) -> str:
    """``weight_decay`` of ``protocol.methods.weight_decay``."""
    return key.rpartition(".")[2]


def apply(choices: Sequence[Choice], config: DictConfig) -> None:
    """Set what was chosen; what the protocol has anyway is left as it is."""
    for choice in choices:
        if choice.origin != "default":
            OmegaConf.update(config, choice.key, choice.value)


def check_select(config: DictConfig, words: Sequence[str]) -> None:
    """``select=`` names a selection of the table, and the other words leave something to select.

    Raises:
        UsageError: they do not.
    """
    if config.select is None:
        return
    if config.table is None:
        known = ", ".join(groups()["table"])
        raise UsageError(f"select={config.select} needs a table. Choose one with table= from: {known}.")
    names = [last(selection.key) for selection in config.table.selections]
    if config.select not in names:
        known = f"Choose from: {', '.join(names)}{did_you_mean(config.select, names)}" if names else "It has none."
        raise UsageError(f"select={config.select} is not a selection of table={config.table.number}. {known}")
    for word in words:
        if _of_method(word) or word.startswith("dataset.label_noise=") or _given(config.select, [word]):
            raise UsageError(f"{word} has no use with select={config.select}: dataset, arch and seed choose its runs.")


def selection_of(config: DictConfig) -> DictConfig:
    """The table's selection that ``config.select`` names."""
    (selection,) = [entry for entry in config.table.selections if last(entry.key) == config.select]
    assert isinstance(selection, DictConfig)
    return selection


def choices(config: DictConfig, dataset: str, arch: str, words: Sequence[str]) -> tuple[Choice, ...]:
    """What the runs of a table's row use of each hyper-parameter that the table selects, up to ``config.select``.

    Args:
        config: Of the table.
        dataset: Of the row.
        arch: Of the row.
        words: That hold for every run of the table. One that sets a hyper-parameter itself leaves nothing to choose.

    Raises:
        UsageError: the file of a selection is damaged.
    """
    made: list[Choice] = []
    for selection in config.table.selections:
        if last(selection.key) == config.select:
            break
        if not _given(selection.key, words):
            default, found = _candidates(config, selection, dataset, arch, words, made)
            made.append(read_choice(found) or default)
    return tuple(made)


def candidates(config: DictConfig, dataset: str, arch: str, words: Sequence[str]) -> list[tuple[Choice, ...]]:
    """For each candidate of ``config.select`` what its runs use: the choices before it, and itself at the end."""
    made = choices(config, dataset, arch, words)
    _, found = _candidates(config, selection_of(config), dataset, arch, words, made)
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
    return Choice(first.key, first.dataset, first.arch, choice.value, "selected", first.path)


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
    return any(last(word.partition("=")[0]) == last(key) for word in words)


def _candidates(
    config: DictConfig, selection: DictConfig, dataset: str, arch: str, words: Sequence[str], before: Sequence[Choice]
) -> tuple[Choice, list[Choice]]:
    """The protocol's value, and the candidates."""
    common = [word for word in words if not _of_method(word)]
    baseline = compose_config([f"dataset={dataset}", f"arch={arch}", f"optim={selection.optim}", *common])
    default = OmegaConf.select(baseline, selection.key)
    apply(before, baseline)
    runs = []
    for value in selection.candidates:
        OmegaConf.update(baseline, selection.key, value)
        runs.append(run_settings(baseline).run_id)
    digest = hashlib.sha256("\n".join(sorted(runs)).encode()).hexdigest()[:8]
    name = f"{last(selection.key)}-{dataset}-{arch}-{digest}.json"
    path = Path(config.paths.results) / "selection" / name
    return Choice(selection.key, dataset, arch, default, "default", path), [
        Choice(selection.key, dataset, arch, value, "candidate", path) for value in selection.candidates
    ]
