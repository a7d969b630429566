"""What U stores: every block structure, from a network's shapes alone (paper, Table 9).

Notation: a kernel X in R^{m x n} stores mn (diagonal), m^2 + n^2 (kfac), m^2 + n^2 + mn (ekfac) or m + n (diag_kfac)
scalars, a bias or norm scale its length; S devices hold 1/S of them each. All in float32. An embedding of n words is
diagonal over the words: m^2 + n (kfac) or m^2 + mn (ekfac).

Networks are built on the meta device: shapes without memory. Those that translate are fairseq's.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import nn

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.engine.tasks.registry import ARCHS, check_inputs, task_for
from llqr_sam.methods.blocks.layout import Kernel, Vector, layout
from llqr_sam.methods.distributed import Ranks
from llqr_sam.report.tables.markup import latex_row, markdown_head, markdown_row
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
DATASETS = ("imagenet", "cifar100", "tinyimagenet", "digits", "iwslt14")  # an arch is counted for the first that fits
PAPER_STRUCTURES = {"e-kfac": "ekfac", "diag-kfac": "diag_kfac"}
PAPER_MODELS = {  # name as printed -> (arch, data set, what it is)
    "ViT-Ti/16": ("vit_tiny", "tinyimagenet", "ViT-Ti/8, 64 x 64 images, 200 classes"),
    "ViT-B/16": ("vit_base", "imagenet", "ViT-B/16, 224 x 224 images, 1000 classes"),
    "ViT-L/16": ("vit_large", "imagenet", "ViT-L/16, 224 x 224 images, 1000 classes"),
}
COLUMNS = ("model_params", "precond_params", "precond_mib_per_device", "total_mib_per_device")
HEADS = ("Model params", "U, scalars", "U, MiB a device", "U + model, MiB a device")


@dataclass(frozen=True)
class Storage:
    """Float32 storage of one network and its U.

    Args:
        parameters: Of the network.
        parts: Scalars of U by what one device must hold together: a kernel or a vector, under "diagonal" a layer.
        shards: S, devices that U is spread over; each has a copy of the network.
    """

    parameters: int
    parts: tuple[int, ...]
    shards: int = 1

    @property
    def scalars(self) -> int:
        """Scalars of U, all devices together."""
        return sum(self.parts)

    @property
    def mib(self) -> float:
        """MiB of U a device when split evenly, as the paper counts."""
        return self.scalars / self.shards / SCALARS_PER_MIB

    @property
    def total_mib(self) -> float:
        """MiB a device of U and the network."""
        return self.mib + self.parameters / SCALARS_PER_MIB

    @property
    def largest_mib(self) -> float:
        """MiB of U on the fullest device of ``LLQR(shard=True)``, which splits between parts, not inside one."""
        return max(sum(share) for share in self.shares()) / SCALARS_PER_MIB

    def shares(self) -> list[list[int]]:
        """The parts each device holds."""
        return [_seat(rank, self.shards).share(self.parts, lambda part: part) for rank in range(self.shards)]

    def printed(self) -> tuple[str, ...]:
        """The columns of Table 9 as text: ``COLUMNS``."""
        return str(self.parameters), str(self.scalars), f"{self.mib:.2f}", f"{self.total_mib:.2f}"


def storage(model: nn.Module, structure: str, shards: int = 1) -> Storage:
    """What LLQR stores for a network; on the meta device this takes no memory.

    Raises:
        UsageError: an unknown structure or fewer than one shard.
    """
    if structure not in KERNEL_SCALARS:
        raise UsageError(f"structure={structure} is not counted here. Choose from: {', '.join(KERNEL_SCALARS)}.")
    if shards < 1:
        raise UsageError(f"shards={shards} must be at least 1.")
    kernels, vectors = layout(model)
    of_weights, of_embeddings = KERNEL_SCALARS[structure], VOCABULARY_SCALARS[structure]
    sizes: list[tuple[Kernel | Vector, int]] = [
        (kernel, kernel.parts * (of_embeddings if kernel.vocabulary else of_weights)(kernel.m, kernel.n))
        for kernel in kernels
    ]
    sizes += [(vector, vector.shape.numel()) for vector in vectors]
    together: defaultdict[str, int] = defaultdict(int)
    for part, size in sizes:
        together[part.layer if structure == "diagonal" else part.name] += size
    return Storage(sum(p.numel() for p in model.parameters()), tuple(together.values()), shards)


def dataset_for(arch: str) -> str:
    """The data set whose images and classes, or sentences, an arch is counted for.

    Raises:
        UsageError: there is no such arch.
    """
    if arch not in ARCHS:
        known = ", ".join(ARCHS)
        raise UsageError(f"arch={arch} is not an architecture here. Choose from: {known}{did_you_mean(arch, ARCHS)}")
    return next(name for name in DATASETS if arch in task_for(name).archs_for(name))


def arch_storage(
    arch: str, dataset: str, structure: str, shards: int = 1, words: tuple[int, int] | None = None
) -> Storage:
    """Storage of a named network for a data set.

    Args:
        arch: The network.
        dataset: Its images and classes, or its sentences.
        structure: One of ``KERNEL_SCALARS``.
        shards: Devices that U is spread over.
        words: Words in the source and in the target dictionary, for sentences; ``None``: as many as the data set's.

    Raises:
        UsageError: an unknown name, a network that does not take what the data set has, ``words`` that are too few or
            of no use, or fairseq is needed and not installed.
    """
    return storage(_shapes(arch, dataset, words)[0], structure, shards)


def arch_table(
    arch: str, dataset: str, structures: Sequence[str], shards: int, words: tuple[int, int] | None = None
) -> str:
    """Every structure of one arch, as Markdown.

    Raises:
        UsageError: as in ``arch_storage``.
    """
    counted = {structure: arch_storage(arch, dataset, structure, shards, words) for structure in structures}
    sizes = _shapes(arch, dataset, words)[1]
    lines = [
        f"arch={arch}, {sizes} ({dataset}), float32, U over {shards} device{'s' * (shards > 1)}",
        "",
        *markdown_head(("Structure", *HEADS, "fullest device, MiB")),
    ]
    for structure, each in counted.items():
        lines.append(markdown_row((structure, *each.printed(), f"{each.largest_mib:.2f}")))
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Row:
    """A row of Table 9, and what the paper prints in it."""

    model: str
    structure: str
    shards: int
    ours: tuple[str, ...]
    paper: tuple[str, ...]

    @property
    def label(self) -> str:
        """``ViT-Ti/8 (printed: ViT-Ti/16)`` where the print names another patch size."""
        counted = PAPER_MODELS[self.model][2].partition(",")[0]
        return self.model if counted == self.model else f"{counted} (printed: {self.model})"


def table_9(path: Path = STORAGE) -> list[Row]:
    """The paper's rows, counted from our networks' shapes."""
    with path.open(newline="") as file:
        printed = list(csv.DictReader(file))
    rows = []
    for row in printed:
        arch, dataset, _ = PAPER_MODELS[row["model"]]
        counted = arch_storage(arch, dataset, PAPER_STRUCTURES[row["structure"]], int(row["shards"]))
        paper = tuple(row[column] for column in COLUMNS)
        rows.append(Row(row["model"], row["structure"], int(row["shards"]), counted.printed(), paper))
    return rows


def write_table_9(output: Path) -> list[Path]:
    """Write ``output`` with .md, .csv and .tex; the paths."""
    rows = table_9()
    texts = {"md": to_markdown(rows), "csv": to_csv(rows), "tex": to_latex(rows)}
    paths = [output.with_name(f"{output.name}.{suffix}") for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        with replacing(path) as file:
            file.write(text.encode())
    return paths


def to_markdown(rows: Sequence[Row]) -> str:
    """What was counted, ours over the paper's, and how many rows agree."""
    lines = [
        "# Table 9: Storage of U on vision transformers",
        "",
        f'{caption()} "paper": the value printed in arXiv 2605.16134.',
        "",
        *markdown_head(("Model", "Structure", "S", *HEADS)),
    ]
    for row in rows:
        cells = [f"{ours}<br>paper {paper}" for ours, paper in zip(row.ours, row.paper, strict=True)]
        lines.append(markdown_row((row.label, row.structure, str(row.shards), *cells)))
    agreed = sum(row.ours == row.paper for row in rows)
    lines += [
        "",
        f"{agreed} of {len(rows)} rows equal the paper's in every digit. Command: `python scripts/storage.py`.",
        "",
    ]
    return "\n".join(lines)


def to_csv(rows: Sequence[Row]) -> str:
    """Our numbers under the columns of the paper's file, models and line ends as there: equal figures, equal files."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(("model", "structure", "shards", *COLUMNS))
    for row in rows:
        writer.writerow((row.model, row.structure, row.shards, *row.ours))
    return text.getvalue()


def to_latex(rows: Sequence[Row]) -> str:
    """A ``table`` environment for booktabs."""
    lines = [
        r"\begin{table}",
        rf"\caption{{Table 9: Storage of U on vision transformers. {caption()}}}".replace(" x ", r" $\times$ "),
        r"\begin{tabular}{llrrrrr}",
        r"\toprule",
        latex_row(("Model", "Structure", "S", *HEADS)),
        r"\midrule",
        *(latex_row((row.label, row.structure, str(row.shards), *row.ours)) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def caption() -> str:
    """What the numbers are."""
    return (
        "Float32, from the networks' shapes; S devices hold 1/S of U each. The row the paper prints as ViT-Ti/16 is "
        f"{PAPER_MODELS['ViT-Ti/16'][2]}; the others are 224 x 224 images of 1000 classes."
    )


def _seat(rank: int, size: int) -> Ranks:
    """One of several processes, to ask what it would hold."""
    ranks = Ranks()
    ranks.rank, ranks.size = rank, size
    return ranks


@cache
def _shapes(arch: str, dataset: str, words: tuple[int, int] | None) -> tuple[nn.Module, str]:
    """A network without memory, and a description of what it is built for."""
    try:
        check_inputs(arch, dataset)
        return task_for(dataset).shapes(arch, dataset, words)
    except ValueError as error:
        raise UsageError(str(error)) from None
