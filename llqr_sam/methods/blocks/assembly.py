"""U's blocks for a network: which parameters they are learned for, which go together, and which rank holds them."""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from llqr_sam.methods.blocks.block import Block, Dense, DiagKFAC, KernelBlock
from llqr_sam.methods.blocks.diagonal import Diagonal
from llqr_sam.methods.blocks.kronecker import EKFAC, KFAC, VocabularyEKFAC, VocabularyKFAC
from llqr_sam.methods.blocks.layout import EMBEDDINGS, Kernel, Vector, layout
from llqr_sam.methods.distributed import Ranks
from llqr_sam.methods.named import Named
from llqr_sam.methods.shards import is_spread

Structure = Literal["diagonal", "kfac", "ekfac", "diag_kfac", "dense"]
KERNEL_BLOCKS: dict[str, type[KernelBlock]] = {"kfac": KFAC, "ekfac": EKFAC, "diag_kfac": DiagKFAC, "dense": Dense}
VOCABULARY_BLOCKS: dict[str, type[KernelBlock]] = {**KERNEL_BLOCKS, "kfac": VocabularyKFAC, "ekfac": VocabularyEKFAC}


class Parameters:
    """The trainable parameters of a model as they were when U was built; ValueError where U cannot be learned."""

    def __init__(self, model: nn.Module) -> None:
        _require_supported(model)
        self.model = model
        self.shapes = _shapes(model)
        first = self._first()
        self.device, self.dtype = first.device, _dtype_of_factors(first)

    def require_known(self, v: Named) -> None:
        """Raises ValueError if a vector has an unknown name or shape, or if the model has been moved."""
        for name, x in v.items():
            if name not in self.shapes:
                raise ValueError(f"LLQR holds no block for parameter {name}; it was built for another model.")
            if x.shape != self.shapes[name]:
                raise ValueError(f"{name} is {tuple(x.shape)}, but U was built for {tuple(self.shapes[name])}.")
        self._require_in_place()

    def require_unchanged(self) -> None:
        """Raises ValueError if a parameter was frozen, unfrozen, reshaped, removed or moved since."""
        present = _shapes(self.model)
        for name in sorted(self.shapes.keys() | present):
            before, now = self.shapes.get(name), present.get(name)
            if before != now:
                change = "became trainable" if before is None else "was frozen or removed"
                if before is not None and now is not None:
                    change = f"became {tuple(now)}"
                raise ValueError(f"parameter {name} {change} after this LLQR was built; build a new one.")
        self._require_in_place()

    def laid_out(self, named: Named, ranks: Ranks) -> Named:
        """The same values, each tensor in the memory order of its parameter, as ``.grad`` has them."""
        present = {name: p for name, p in self.model.named_parameters() if name in named}
        like = {name: torch.empty_like(p, device="meta", dtype=named[name].dtype) for name, p in present.items()}
        if not ranks.same([x.stride() for x in like.values()]):  # ranks exchange the memory of U
            like = {name: x.contiguous() for name, x in like.items()}
        return {
            name: x if x.stride() == like[name].stride() else torch.empty_like(like[name], device=x.device).copy_(x)
            for name, x in named.items()
        }

    def _first(self) -> nn.Parameter:
        return next(p for name, p in self.model.named_parameters() if name in self.shapes)

    def _require_in_place(self) -> None:
        p = self._first()
        if (p.device, _dtype_of_factors(p)) != (self.device, self.dtype):
            raise ValueError(
                f"the model is now {p.dtype} on {p.device}, but U is {self.dtype} on {self.device}; "
                "build LLQR after moving the model."
            )


def assemble(
    parameters: Parameters, structure: Structure, shards: Ranks, apply_dtype: torch.dtype | None = None
) -> list[Block]:
    """This rank's blocks, all at the identity: one for kernels of a kind and shape, a flat one for all vectors."""
    dtype, device = parameters.dtype, parameters.device
    alike: defaultdict[tuple[type[KernelBlock], int, int], list[Kernel]] = defaultdict(list)
    vectors: list[Vector] = []
    for part in _share(parameters.model, structure, shards):
        if isinstance(part, Kernel) and structure != "diagonal":
            alike[_kind(structure, part), part.n, part.m].append(part)
        else:
            vectors.append(part)
    blocks: list[Block] = [
        kind(same, dtype=dtype, device=device, apply_dtype=apply_dtype) for (kind, _, _), same in alike.items()
    ]
    if vectors:
        diagonal = Diagonal(vectors, joint=structure == "diagonal", dtype=dtype, device=device)
        diagonal.lay_out(dict(parameters.model.named_parameters()))
        blocks.append(diagonal)
    if not blocks:
        raise ValueError(f"shard=True leaves rank {shards.rank} of {shards.size} without a parameter; use fewer ranks.")
    return blocks


def _share(model: nn.Module, structure: Structure, shards: Ranks) -> list[Vector]:
    """This rank's kernels and vectors, balanced by their storage; "diagonal" keeps a layer on one rank."""
    kernels, vectors = layout(model)
    if structure == "diagonal":
        order = {name: i for i, (name, _) in enumerate(model.named_parameters())}
        layers: defaultdict[str, list[Vector]] = defaultdict(list)
        for vector in sorted([*kernels, *vectors], key=lambda vector: order[vector.name]):
            layers[vector.layer].append(vector)
        shared = shards.share(list(layers.values()), lambda layer: sum(vector.shape.numel() for vector in layer))
        return [vector for layer in shared for vector in layer]
    odd = [vector.name for vector in vectors if vector.fallback]
    if odd:
        warnings.warn(f"structure={structure} is for matrices, and U stays diagonal on {', '.join(odd)}.", stacklevel=4)
    return shards.share([*kernels, *vectors], lambda part: _stored(structure, part))


def _kind(structure: Structure, kernel: Kernel) -> type[KernelBlock]:
    return (VOCABULARY_BLOCKS if kernel.vocabulary else KERNEL_BLOCKS)[structure]


def _stored(structure: Structure, part: Vector) -> int:
    """Returns how many scalars U stores for one kernel or vector."""
    if not isinstance(part, Kernel):
        return part.shape.numel()
    block = _kind(structure, part)([part], dtype=torch.float32, device=torch.device("meta"))
    return sum(factor.numel() for factor in block.factors.values())


def _dtype_of_factors(parameter: Tensor) -> torch.dtype:
    """Returns float64 for float64 parameters, else float32."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def _require_supported(model: nn.Module) -> None:
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError("LLQR needs a model with at least one parameter that requires a gradient.")
    first, other = next(iter(trainable.items()))
    for name, p in trainable.items():
        fault = ""
        if isinstance(p, UninitializedParameter):
            fault = f"{name} has no shape yet; run the model once before building LLQR."
        elif is_spread(p) or getattr(p, "_fsdp_flattened", False):
            fault = (
                f"{name} is spread over ranks (fully_shard, FSDP or tensor parallel), and a refresh needs it whole; "
                "use DistributedDataParallel, with shard=True to spread U itself, or a method without LLQR."
            )
        elif p.is_complex():
            fault = f"{name} is complex; LLQR needs real ones."
        elif p.device != other.device:
            fault = f"{first} is on {other.device} and {name} on {p.device}; LLQR needs all on one device."
        elif p.is_inference():
            fault = f"{name} was made in inference mode, and has no gradient; make the model outside."
        elif _dtype_of_factors(p) != _dtype_of_factors(other):
            fault = f"{first} is {other.dtype} and {name} {p.dtype}; LLQR needs all in double precision, or none."
        if fault:
            raise ValueError(f"parameter {fault}")
    if other.device.type == "meta":
        raise ValueError("the model is on the meta device, without values; build LLQR after loading them.")
    for name, module in model.named_modules():
        if isinstance(module, EMBEDDINGS) and module.sparse and any(p.requires_grad for p in module.parameters()):
            raise ValueError(f"embedding {name} has sparse gradients, and LLQR needs dense ones: set sparse=False.")


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
