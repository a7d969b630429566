"""U's blocks for a network: which parameters go together, and which rank holds them."""

from __future__ import annotations

import warnings
from collections import defaultdict
from functools import partial
from typing import Literal

import torch
from torch import nn

from llqr_sam.methods.blocks.block import Block, Dense, DiagKFAC, KernelBlock
from llqr_sam.methods.blocks.diagonal import Diagonal
from llqr_sam.methods.blocks.kronecker import EKFAC, KFAC
from llqr_sam.methods.blocks.layout import Kernel, Vector, layout
from llqr_sam.methods.blocks.parameters import dtype_of_factors, require_supported
from llqr_sam.methods.blocks.vocabulary import VocabularyEKFAC, VocabularyKFAC
from llqr_sam.methods.distributed import Ranks

Structure = Literal["diagonal", "kfac", "ekfac", "diag_kfac", "dense"]
KERNEL_BLOCKS: dict[str, type[KernelBlock]] = {"kfac": KFAC, "ekfac": EKFAC, "diag_kfac": DiagKFAC, "dense": Dense}
VOCABULARY_BLOCKS: dict[str, type[KernelBlock]] = {**KERNEL_BLOCKS, "kfac": VocabularyKFAC, "ekfac": VocabularyEKFAC}


def assemble(
    model: nn.Module, structure: Structure, shards: Ranks, apply_dtype: torch.dtype | None = None
) -> list[Block]:
    """Returns this rank's blocks, all at the identity; arguments and errors are those of ``LLQR``.

    Kernels of one kind and shape share a block, vectors (under "diagonal" everything) one flat block.
    """
    require_supported(model)
    first = next(p for p in model.parameters() if p.requires_grad)
    dtype = dtype_of_factors(first)
    kernels, vectors = _share(model, structure, shards)
    alike: defaultdict[tuple[type[KernelBlock], int, int], list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        alike[_kind(structure, kernel), kernel.n, kernel.m].append(kernel)
    blocks: list[Block] = [
        kind(same, dtype=dtype, device=first.device, apply_dtype=apply_dtype) for (kind, _, _), same in alike.items()
    ]
    if vectors:
        diagonal = Diagonal(vectors, joint=structure == "diagonal", dtype=dtype, device=first.device)
        diagonal.lay_out(dict(model.named_parameters()))
        blocks.append(diagonal)
    if not blocks:
        raise ValueError(f"shard=True leaves rank {shards.rank} of {shards.size} without a parameter; use fewer ranks.")
    return blocks


def _share(model: nn.Module, structure: Structure, shards: Ranks) -> tuple[list[Kernel], list[Vector]]:
    """Returns this rank's kernels and vectors, balanced by their storage; "diagonal" keeps a layer on one rank."""
    kernels, vectors = layout(model)
    if structure != "diagonal":
        odd = [vector.name for vector in vectors if vector.fallback]
        if odd:
            warnings.warn(
                f"structure={structure} is for matrices, and U stays diagonal on {', '.join(odd)}.", stacklevel=4
            )
        held = shards.share([*kernels, *vectors], partial(_stored, structure))
        return [part for part in held if isinstance(part, Kernel)], [part for part in held if isinstance(part, Vector)]
    order = {name: i for i, (name, _) in enumerate(model.named_parameters())}
    flat = [*(Vector(k.name, k.shape, k.layer, k.parts, k.third) for k in kernels), *vectors]
    layers: defaultdict[str, list[Vector]] = defaultdict(list)
    for vector in sorted(flat, key=lambda vector: order[vector.name]):
        layers[vector.layer].append(vector)
    shared = shards.share(list(layers.values()), lambda layer: sum(vector.shape.numel() for vector in layer))
    return [], [vector for layer in shared for vector in layer]


def _kind(structure: Structure, kernel: Kernel) -> type[KernelBlock]:
    return (VOCABULARY_BLOCKS if kernel.vocabulary else KERNEL_BLOCKS)[structure]


def _stored(structure: Structure, held: Kernel | Vector) -> int:
    """Returns how many scalars U stores for one kernel or vector."""
    if isinstance(held, Vector):
        return held.shape.numel()
    block = _kind(structure, held)([held], dtype=torch.float32, device=torch.device("meta"))
    return sum(factor.numel() for factor in block.factors.values())
