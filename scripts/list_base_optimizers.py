"""Prints which classes of torch.optim and pytorch_optimizer are base optimizers here, and why others are not.

    python scripts/list_base_optimizers.py        a minute; docs/base_optimizers.md has it for the pinned versions

Each class takes a few steps on a small network with its own defaults, alone and inside a sharpness-aware step, and is
resumed from a checkpoint there, as ``optim.base=`` does before a run.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

from torch.optim import Optimizer

from llqr_sam.engine.observers.unread import until_unread
from llqr_sam.methods.bases import LIBRARIES
from llqr_sam.methods.settings import NamedBaseSettings, SettingError

ARGUMENTS = {"Ranger21": {"num_iterations": 100}, "BSAM": {"num_data": 100}}  # required ones
LR = 1e-3  # of classes without a default


def names(library: str) -> Iterator[str]:
    """The optimizer classes of a library, but for those that it takes from another."""
    for name, kind in sorted(vars(importlib.import_module(library)).items()):
        optimizer = isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
        if optimizer and kind.__module__.startswith(library):
            yield name


def settings_of(name: str) -> tuple[NamedBaseSettings, list[str]]:
    """The settings with the class's defaults, and the keys that had to be set."""
    args = ARGUMENTS.get(name.rpartition(".")[2])
    needed = [f"optim.base_args.{key}" for key in args or ()]
    try:
        return NamedBaseSettings(name, base_args=args), needed
    except SettingError as error:
        if error.key != "lr":
            raise
    return NamedBaseSettings(name, lr=LR, base_args=args), ["optim.lr", *needed]


def sections() -> Iterator[str]:
    """A section of Markdown for each library."""
    for library in LIBRARIES:
        works: list[str] = []
        alone: list[str] = []
        refused: list[str] = []
        for name in names(library):
            try:
                settings, needed = settings_of(f"{library}.{name}")
            except SettingError as error:
                refused.append(f"| {name} | {error.problem} |")
                continue
            item = f"{name} ({', '.join(f'set {key}' for key in needed) or f'{settings.lr:g}'})"
            try:
                settings.require_trainable(wrapped=True)
                works.append(item)
            except SettingError as error:
                alone.append(f"| {item} | {error.problem} |")
        lines = [
            f"### {library}",
            "",
            f"Work ({len(works)}; in brackets the default learning rate): {', '.join(works)}.",
        ]
        if alone:
            lines += [
                "",
                "| works with `optim=base` | but not inside `optim=sam` and the like: it |",
                "|---|---|",
                *alone,
            ]
        yield "\n".join([*lines, "", "| refused | it |", "|---|---|", *refused])


def main() -> int:
    """Print the sections."""
    print(*sections(), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(until_unread(main))
