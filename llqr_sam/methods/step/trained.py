"""The parameters that an optimizer trains: their names, and the parts of them that this process holds.

A step knows parameters by name and sees local parts (shards.py). A model may be given other parameters, cast or moved
between two steps; ``Trained`` is then made anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from llqr_sam.methods.named import Named
from llqr_sam.methods.shards import Shards, groups_of, is_spread, local
from llqr_sam.methods.step.scaling import UNSCALED


@dataclass
class Perturbed:
    """The weights between the two passes of a step."""

    names: list[str] = field(default_factory=list)  # of the parameters that are moved
    parts: list[Tensor] = field(default_factory=list)  # of these, what this process holds
    saved: list[Tensor] = field(default_factory=list)  # what they were
    overflow: bool = False  # the first pass was not finite: nothing was moved, and the base does not move
    scaler: GradScaler = UNSCALED  # of the second pass, where the caller makes it
    called: set[nn.Module] = field(default_factory=set)  # in that pass
    contexts: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # of that pass

    def restore(self) -> None:
        """Puts the weights back, and leaves the contexts of the second pass."""
        if self.parts:
            torch._foreach_copy_(self.parts, self.saved)  # copied, since theta + eps - eps is not theta
        self.contexts.close()


class Trained:
    """The parameters of all groups in order; ValueError where a step would be wrong for one.

    Args:
        groups: The optimizer's parameter groups.
        model: Whose names the parameters get; ``None``: "group.index".
    """

    def __init__(self, groups: Sequence[dict[str, Any]], model: nn.Module | None) -> None:
        self.parameters = _of(groups)
        self.spread = any(is_spread(p) for p in self.parameters)
        self._layout = self._layout_of(self.parameters)
        self._model = model
        if model is None:
            self.names = [f"{g}.{i}" for g, group in enumerate(groups) for i in range(len(group["params"]))]
        else:
            self.names = self._names_in(model)
        for p in self.parameters:
            _require_supported(p)
        self.kinds = {id(p): (p.dtype, p.device) for p in self.parameters}
        self._sizes = [len(group["params"]) for group in groups]
        self._memory: Named = {}
        self.shards: Shards = {n: g for n, p in zip(self.names, self.parameters, strict=True) if (g := groups_of(p))}
        self._without_gradient: set[str] = set()

    def still(self, groups: Sequence[dict[str, Any]]) -> bool:
        """Whether these are the same parameters, in the same groups and where they were in memory."""
        same_groups = [len(group["params"]) for group in groups] == self._sizes
        return same_groups and self._layout_of(_of(groups)) == self._layout

    def with_gradient(self) -> Iterator[Tensor]:
        """Returns the parameters that have a gradient."""
        return (p for p in self.parameters if p.grad is not None)

    def any_gradient(self) -> bool:
        """Whether a parameter has a gradient."""
        return next(self.with_gradient(), None) is not None

    def gradients(self) -> Named:
        """Returns the local part of each gradient there is, by name."""
        if self.spread:
            for p in self.parameters:
                _settle(p)
            return {n: local(p.grad) for n, p in zip(self.names, self.parameters, strict=True) if p.grad is not None}
        return {n: g for n, p in zip(self.names, self.parameters, strict=True) if (g := p.grad) is not None}

    def of_groups(self, radii: Sequence[float], gradients: Named) -> Named:
        """Returns those gradients whose group has a radius other than zero."""
        if all(radii):
            return gradients
        chosen = {name for radius, names in zip(radii, self._by_group(), strict=True) if radius for name in names}
        return {name: g for name, g in gradients.items() if name in chosen}

    def keep(self, names: Collection[str]) -> Perturbed:
        """Copies the parameters of these names, which are about to be moved."""
        moved = self.parameters
        if len(names) < len(self.names):
            moved = [p for name, p in zip(self.names, moved, strict=True) if name in names]
        if self.spread:
            moved = [local(p) for p in moved]
        order = self.names if len(names) == len(self.names) else [name for name in self.names if name in names]
        if not self._memory.keys() >= set(order):
            self._memory = {name: torch.empty_like(p) for name, p in zip(order, moved, strict=True)}
        saved = [self._memory[name] for name in order]
        if saved:
            torch._foreach_copy_(saved, moved)
        return Perturbed(order, moved, saved)

    def climb(self, between: Perturbed, mv: Named, factor: float, radii: Sequence[float]) -> None:
        """Adds radius * factor * M v to the parameters that were kept, each with the radius of its group."""
        steps = [mv[name] for name in between.names]
        if len(set(radii)) == 1 and steps:
            torch._foreach_add_(between.parts, steps, alpha=radii[0] * factor)
        elif steps:
            radius_of = {name: radius for radius, own in zip(radii, self._by_group(), strict=True) for name in own}
            for radius in set(radii):
                chosen = [i for i, name in enumerate(between.names) if radius_of[name] == radius]
                if chosen:
                    parts, along = [between.parts[i] for i in chosen], [steps[i] for i in chosen]
                    torch._foreach_add_(parts, along, alpha=radius * factor)

    def require_model(self, gradients: Named) -> None:
        """Raises ValueError where the model has other parameters by now: the old ones get no gradient."""
        if self._model is not None and len(gradients) < len(self.names):
            without = set(self.names).difference(gradients)
            if without != self._without_gradient:
                self._names_in(self._model)
                self._without_gradient = without

    def _layout_of(self, parameters: Sequence[Tensor]) -> list[Any]:
        """Returns what changes when a parameter is replaced, cast, moved or laid out anew, at little cost."""
        if self.spread:
            return [(id(p), p.dtype, p.device, p.stride()) for p in parameters]
        return [[p.dtype for p in parameters[:1]], list(map(id, parameters)), [p.data_ptr() for p in parameters]]

    def _by_group(self) -> Iterator[list[str]]:
        names = iter(self.names)
        return (list(islice(names, size)) for size in self._sizes)

    def _names_in(self, model: nn.Module) -> list[str]:
        names = {id(p): name for name, p in model.named_parameters()}
        if any(id(p) not in names for p in self.parameters):
            raise ValueError("the base holds a parameter that is not the model's; give it the present ones.")
        return [names[id(p)] for p in self.parameters]


def _of(groups: Sequence[dict[str, Any]]) -> list[Tensor]:
    return [p for group in groups for p in group["params"]]


def _settle(parameter: Any) -> None:
    """Sums a gradient that is still spread as partial sums, and places it like its parameter."""
    gradient = parameter.grad
    if gradient is not None and getattr(gradient, "placements", None) != getattr(parameter, "placements", None):
        parameter.grad = gradient.redistribute(placements=parameter.placements)


def _require_supported(parameter: Tensor) -> None:
    if parameter.is_complex():
        raise ValueError("the base holds a complex parameter; this step needs real ones.")
    if getattr(parameter, "_fsdp_flattened", False):
        raise ValueError(
            "FullyShardedDataParallel gives each rank a flat piece, whose norm is not the model's; "
            "use torch.distributed.fsdp.fully_shard (FSDP2), which this step supports."
        )
