"""Table 9: how much memory U takes with each block structure, counted from a network's shapes.

For a kernel X in R^{m x n}, U has mn (diagonal), m^2 + n^2 (kfac), m^2 + n^2 + mn (ekfac) or m + n (diag_kfac) scalars;
for a bias or norm scale, its length. An embedding of n words is diagonal over the words: m^2 + n (kfac) or m^2 + mn
(ekfac). Scalars are float32, and each of S devices holds 1/S of them. Networks are built on the meta device, so they
take no memory; those that translate are fairseq's.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from torch import nn

from llqr_sam.engine.tasks.registry import archs, check_inputs, task_for
from llqr_sam.methods.blocks.layout import layout
from llqr_sam.methods.distributed import Ranks
from llqr_sam.report.tables.printed_table import (
    TIMES,
    PrintedCell,
    PrintedRow,
    PrintedTable,
    RowGroup,
    csv_text,
    markdown_rows,
)
from llqr_sam.repository import PAPER
from llqr_sam.suite.config.errors import UsageError, did_you_mean

STORAGE = PAPER / "table9_storage.csv"
KERNEL_SCALARS: dict[str, Callable[[int, int], int]] = {
    "diagonal": lambda m, n: m * n,
    "kfac": lambda m, n: m * m + n * n,
    "ekfac": lambda m, n: m * m + n * n + m * n,
    "diag_kfac": lambda m, n: m + n,
}
VOCABULARY_SCALARS = KERNEL_SCALARS | {"kfac": lambda m, n: m * m + n, "ekfac": lambda m, n: m * m + m * n}
SCALARS_PER_MIB = 2**20 / 4
COUNTED_FOR = ("imagenet", "cifar100", "tinyimagenet", "digits", "iwslt14")  # a network: the first data set that fits
PAPER_STRUCTURES = {"e-kfac": "ekfac", "diag-kfac": "diag_kfac"}
PAPER_MODELS = {  # name as printed -> (arch, data set, the network that was counted)
    "ViT-Ti/16": ("vit_tiny", "tinyimagenet", "ViT-Ti/8, 64 x 64 images, 200 classes"),
    "ViT-B/16": ("vit_base", "imagenet", "ViT-B/16, 224 x 224 images, 1000 classes"),
    "ViT-L/16": ("vit_large", "imagenet", "ViT-L/16, 224 x 224 images, 1000 classes"),
}
TONES = {True: "same", False: "below"}  # whether ours is the paper's number -> ``PrintedCell.tone``
COLUMNS = ("model_params", "precond_params", "precond_mib_per_device", "total_mib_per_device")
Words = tuple[int, int]  # sizes of the source and target dictionaries, for sentences
HEADS = ("Model params", "U, scalars", "U, MiB a device", "U + model, MiB a device")


@dataclass(frozen=True)
class Storage:
    """Float32 storage of a network and its U. A part is a kernel or a vector; with the diagonal structure, a layer."""

    parameters: int  # of the network
    parts: tuple[int, ...]  # scalars of each part of U, which one device must hold whole
    shards: int = 1  # devices S that U is spread over; each has a copy of the network

    @property
    def scalars(self) -> int:
        """Scalars of U on all devices."""
        return sum(self.parts)

    @property
    def mib(self) -> float:
        """MiB of U on each device if it is split evenly, as the paper counts."""
        return self.scalars / self.shards / SCALARS_PER_MIB

    @property
    def total_mib(self) -> float:
        """MiB of U and the network on each device."""
        return self.mib + self.parameters / SCALARS_PER_MIB

    @property
    def largest_mib(self) -> float:
        """MiB of U on the fullest device of ``LLQR(shard=True)``, which never splits a part."""
        return max(sum(share) for share in self.shares()) / SCALARS_PER_MIB

    def shares(self) -> list[list[int]]:
        """The parts that each device holds."""
        shares = []
        for rank in range(self.shards):
            ranks = Ranks()  # one of the processes, asked for its share without starting it
            ranks.rank, ranks.size = rank, self.shards
            shares.append(ranks.share(self.parts, lambda part: part))
        return shares

    def printed(self) -> tuple[str, ...]:
        """The values of ``COLUMNS`` as text."""
        return str(self.parameters), str(self.scalars), f"{self.mib:.2f}", f"{self.total_mib:.2f}"


def storage(model: nn.Module, structure: str, shards: int = 1) -> Storage:
    """What LLQR stores for a network. No memory is taken if the network is on the meta device."""
    if structure not in KERNEL_SCALARS:
        raise UsageError(f"structure={structure} is not counted here. Choose from: {', '.join(KERNEL_SCALARS)}.")
    if shards < 1:
        raise UsageError(f"shards={shards} must be at least 1.")
    kernels, vectors = layout(model)
    scalars = {False: KERNEL_SCALARS[structure], True: VOCABULARY_SCALARS[structure]}  # by whether it is an embedding
    together: defaultdict[str, int] = defaultdict(int)
    for kernel in kernels:
        size = kernel.parts * scalars[bool(kernel.vocabulary)](kernel.m, kernel.n)
        together[kernel.layer if structure == "diagonal" else kernel.name] += size
    for vector in vectors:
        together[vector.layer if structure == "diagonal" else vector.name] += vector.shape.numel()
    return Storage(sum(p.numel() for p in model.parameters()), tuple(together.values()), shards)


def dataset_for(arch: str) -> str:
    """The data set that an arch is counted for unless another is named."""
    if arch not in archs():
        known = ", ".join(archs())
        raise UsageError(f"arch={arch} is not an architecture here. Choose from: {known}{did_you_mean(arch, archs())}")
    return next(name for name in COUNTED_FOR if arch in task_for(name).archs_for(name))


def arch_storage(arch: str, dataset: str, structure: str, shards: int = 1, words: Words | None = None) -> Storage:
    """Storage of a named network; ``words`` are for one that translates."""
    return storage(_network(arch, dataset, words)[0], structure, shards)


def arch_table(arch: str, dataset: str, structures: Sequence[str], shards: int, words: Words | None = None) -> str:
    """A Markdown table of one network's storage, a row for each structure; arguments as for ``arch_storage``."""
    model, sizes = _network(arch, dataset, words)
    counted = {structure: storage(model, structure, shards) for structure in structures}
    parts = max(len(each.parts) for each in counted.values())
    if shards > parts:  # a shard holds whole parts of U, so further shards would be empty
        raise UsageError(f"shards={shards} is not possible: U of arch={arch} has {parts} parts to spread.")
    rows = [(name, *each.printed(), f"{each.largest_mib:.2f}") for name, each in counted.items()]
    spread = f"U over {shards} device{'s' * (shards > 1)}"
    table = markdown_rows(("Structure", *HEADS, "fullest device, MiB"), rows)
    return "\n".join([f"arch={arch}, {sizes} ({dataset}), float32, {spread}", "", *table, ""])


class StorageRow(NamedTuple):
    """A row of Table 9: our numbers and those that the paper prints, in the order of ``COLUMNS``."""

    model: str  # as printed
    structure: str
    shards: int
    ours: tuple[str, ...]
    paper: tuple[str, ...]

    def printed(self) -> PrintedRow:
        """Ours over the paper's; ``ViT-Ti/8 (printed: ViT-Ti/16)`` where the paper prints another patch size."""
        counted = PAPER_MODELS[self.model][2].partition(",")[0]
        label = self.model if counted == self.model else f"{counted} (printed: {self.model})"
        cells = [
            PrintedCell(ours, {"paper": paper}, difference="=" if ours == paper else "≠", tone=TONES[ours == paper])
            for ours, paper in zip(self.ours, self.paper, strict=True)
        ]
        return PrintedRow((label, self.structure, str(self.shards)), cells)


def table_9() -> list[StorageRow]:
    """The paper's rows, counted from our networks' shapes."""
    rows = []
    with STORAGE.open(newline="") as file:
        for row in csv.DictReader(file):
            arch, dataset, _ = PAPER_MODELS[row["model"]]
            shards, structure = int(row["shards"]), row["structure"]
            ours = arch_storage(arch, dataset, PAPER_STRUCTURES[structure], shards).printed()
            rows.append(StorageRow(row["model"], structure, shards, ours, tuple(row[column] for column in COLUMNS)))
    return rows


def print_table_9() -> PrintedTable:
    """Table 9 as a reader sees it. Its CSV has the paper's columns and line ends: equal numbers give an equal file."""
    rows = table_9()
    csv_heads = ("model", "structure", "shards", *COLUMNS)
    agreed = sum(row.ours == row.paper for row in rows)
    caption = (
        "Float32, from the networks' shapes; S devices hold 1/S of U each. The row the paper prints as ViT-Ti/16 is "
        f"{PAPER_MODELS['ViT-Ti/16'][2]}; the others are 224 x 224 images of 1000 classes."
    )
    return PrintedTable(
        number="9",
        title="Table 9: Storage of U on vision transformers",
        caption=caption.replace(" x ", f" {TIMES} "),
        markdown_caption=f'{caption} "paper": the value printed in arXiv 2605.16134.',
        heads=("Model", "Structure", "S", *HEADS),
        alignment="llrrrrr",
        groups=[RowGroup([row.printed() for row in rows])],
        progress=f"{agreed} of {len(rows)} rows equal the paper's in every digit.",
        command="python scripts/storage.py",
        done=len(rows),
        planned=len(rows),
        unit="rows",
        csv=csv_text([dict(zip(csv_heads, (*row[:3], *row.ours), strict=True)) for row in rows], line_end="\r\n"),
    )


@cache
def _network(arch: str, dataset: str, words: Words | None) -> tuple[nn.Module, str]:
    """A network on the meta device, and a description of what it is built for."""
    try:
        check_inputs(arch, dataset)
        return task_for(dataset).shapes(arch, dataset, words)
    except ValueError as error:
        raise UsageError(str(error)) from None
