"""The parameters of a U: which ones it can be learned for, and whether the model still has them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from llqr_sam.methods.blocks.layout import EMBEDDINGS
from llqr_sam.methods.distributed import Ranks
from llqr_sam.methods.named import Named


class Parameters:
    """The trainable parameters of a model, at least one, as they were when U was built."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._shapes = _shapes(model)
        first = self._first()
        self.device, self.dtype = first.device, dtype_of_factors(first)

    @property
    def names(self) -> frozenset[str]:
        """Returns their names."""
        return frozenset(self._shapes)

    def require_values(self) -> None:
        """Raises ValueError for a model on the meta device."""
        if self.device.type == "meta":
            raise ValueError("the model is on the meta device, without values; build LLQR after loading them.")

    def require_known(self, v: Named) -> None:
        """Raises ValueError if a vector has an unknown name or shape, or if the model has been moved."""
        for name, x in v.items():
            if name not in self._shapes:
                raise ValueError(f"LLQR holds no block for parameter {name}; it was built for another model.")
            if x.shape != self._shapes[name]:
                raise ValueError(f"{name} is {tuple(x.shape)}, but U was built for {tuple(self._shapes[name])}.")
        self._require_in_place()

    def require_unchanged(self) -> None:
        """Raises ValueError if a parameter was frozen, unfrozen, reshaped, removed or moved since."""
        present = _shapes(self._model)
        for name in sorted(self._shapes.keys() | present):
            before, now = self._shapes.get(name), present.get(name)
            if before != now:
                change = "became trainable" if before is None else "was frozen or removed"
                change = f"became {tuple(now)}" if before and now else change
                raise ValueError(
                    f"parameter {name} {change} after this LLQR was built; build a new one for the model as it is."
                )
        self._require_in_place()

    def laid_out(self, named: Named, ranks: Ranks) -> Named:
        """The same values, each tensor in the memory order of its parameter, as ``.grad`` has them.

        Ranks exchange the memory of U, so tensors are contiguous where the ranks' parameters differ in order.
        """
        present = {name: p for name, p in self._model.named_parameters() if name in named}
        like = {name: torch.empty_like(p, device="meta", dtype=named[name].dtype) for name, p in present.items()}
        if not ranks.same([x.stride() for x in like.values()]):
            like = {name: x.contiguous() for name, x in like.items()}
        return {
            name: x if x.stride() == like[name].stride() else torch.empty_like(like[name], device=x.device).copy_(x)
            for name, x in named.items()
        }

    def _first(self) -> nn.Parameter:
        return next(p for name, p in self._model.named_parameters() if name in self._shapes)

    def _require_in_place(self) -> None:
        p = self._first()
        if (p.device, dtype_of_factors(p)) != (self.device, self.dtype):
            raise ValueError(
                f"the model is now {p.dtype} on {p.device}, but U is {self.dtype} on {self.device}; "
                "build LLQR after moving the model."
            )


def dtype_of_factors(parameter: Tensor) -> torch.dtype:
    """Returns float64 for float64 parameters, else float32."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def require_supported(model: nn.Module) -> None:
    """Raises ValueError for parameters that no U can be learned for."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError("LLQR needs a model with at least one parameter that requires a gradient.")
    first, other = next(iter(trainable.items()))
    for name, parameter in trainable.items():
        fault = ""
        if isinstance(parameter, UninitializedParameter):
            fault = f"{name} has no shape yet; run the model once before building LLQR."
        elif parameter.is_complex():
            fault = f"{name} is complex; LLQR needs real ones."
        elif parameter.device != other.device:
            fault = f"{first} is on {other.device} and {name} on {parameter.device}; LLQR needs all on one device."
        elif parameter.is_inference():
            fault = f"{name} was made in inference mode, and has no gradient; make the model outside."
        elif dtype_of_factors(parameter) != dtype_of_factors(other):
            fault = (
                f"{first} is {other.dtype} and {name} {parameter.dtype}; LLQR needs all in double precision, or none."
            )
        if fault:
            raise ValueError(f"parameter {fault}")
    for name, module in model.named_modules():
        if isinstance(module, EMBEDDINGS) and module.sparse and any(p.requires_grad for p in module.parameters()):
            raise ValueError(f"embedding {name} has sparse gradients, and LLQR needs dense ones: set sparse=False.")


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
