"""What U stores, by the paper's Table 9: all twelve rows, from the layout of models that hold no memory."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from torch import nn

from llqr_sam import LLQR
from llqr_sam.methods.blocks.layout import Kernel, Vector, layout
from llqr_sam.models.registry import build
from tests.methods.networks import NETWORKS

STRUCTURES = {"diag-kfac": "diag_kfac", "e-kfac": "ekfac"}
MODELS = {  # "ViT-Ti/16" has patches of 8, 64 x 64 images, 200 classes (docs/methods.md, section 2.6)
    "ViT-Ti/16": ("vit_tiny", 200, 64),
    "ViT-B/16": ("vit_base", 1000, 224),
    "ViT-L/16": ("vit_large", 1000, 224),
}
SCALARS = {
    "diagonal": lambda m, n: m * n,
    "kfac": lambda m, n: m * m + n * n,
    "ekfac": lambda m, n: m * m + n * n + m * n,
    "diag_kfac": lambda m, n: m + n,
    "dense": lambda m, n: (m * n) ** 2,
}
MIB = 2**20 / 4
"""Float32 scalars in a MiB."""


VOCABULARY = SCALARS | {"kfac": lambda m, n: m * m + n, "ekfac": lambda m, n: m * m + m * n}
"""Of an embedding of n words: diagonal over the words (docs/translation.md)."""


def _stored(kernels: list[Kernel], vectors: list[Vector], structure: str) -> int:
    """Scalars of U: each kernel's factors, and a diagonal for each vector."""
    of_kernels = sum(k.parts * (VOCABULARY if k.vocabulary else SCALARS)[structure](k.m, k.n) for k in kernels)
    return of_kernels + sum(v.shape.numel() for v in vectors)


def _row_name(row: dict[str, str]) -> str:
    return f"{row['model']}-{row['structure']}-{row['shards']}"


def test_every_row_of_table_9(shared):
    """Parameters, stored scalars, and MiB a device in float32, to the printed digits."""
    with (shared / "paper" / "table9_storage.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    layouts, sizes = {}, {}
    for printed, (arch, classes, side) in MODELS.items():
        with torch.device("meta"):
            model = build(arch, classes=classes, image_size=side)
        layouts[printed], sizes[printed] = layout(model), sum(p.numel() for p in model.parameters())
    for row in rows:
        size = sizes[row["model"]]
        stored = _stored(*layouts[row["model"]], STRUCTURES[row["structure"]])
        per_device = stored / int(row["shards"]) / MIB
        assert size == int(row["model_params"]), _row_name(row)
        assert stored == int(row["precond_params"]), _row_name(row)
        assert f"{per_device:.2f}" == row["precond_mib_per_device"], _row_name(row)
        assert f"{per_device + size / MIB:.2f}" == row["total_mib_per_device"], _row_name(row)


@pytest.mark.parametrize("structure", list(SCALARS))
@pytest.mark.parametrize("name", ["mlp", "conv", "transformer"])
def test_llqr_stores_what_the_formula_says(name, structure):
    net: nn.Module = NETWORKS[name]()[0]
    assert LLQR(net, structure=structure).storage == _stored(*layout(net), structure)


def test_the_formula_counts_every_parameter_once():
    for name in ("mlp", "conv", "transformer"):
        net = NETWORKS[name]()[0]
        kernels, vectors = layout(net)
        assert _stored(kernels, vectors, "diagonal") == sum(math.prod(p.shape) for p in net.parameters())
