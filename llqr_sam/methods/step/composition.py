"""The three parts of a method together: what the perturbation climbs along, and what a checkpoint keeps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llqr_sam.methods.directions import Direction
from llqr_sam.methods.metrics import Metric
from llqr_sam.methods.named import Named
from llqr_sam.methods.settings import Norm
from llqr_sam.methods.shards import WHOLE, Shards

PARTS = ("direction", "probe", "transport")


@dataclass(frozen=True)
class Composition:
    """A direction, the metric of the perturbation, and the metric of the transport, which may be the same object."""

    direction: Direction
    probe: Metric
    transport: Metric

    def ascent(self, gradients: Named, perturbed: Named, norm: Norm, shards: Shards) -> tuple[Named, float]:
        """Shows the gradients to the metrics; returns ``Metric.ascent`` along those that are perturbed.

        Args:
            gradients: g, name -> local part of each gradient.
            perturbed: Those of groups with a radius.
            norm: Of the perturbation.
            shards: Which of them are parts.
        """
        self.transport.observe(gradients)
        if not perturbed:
            return {}, 0.0
        if self.probe is not self.transport:
            self.probe.observe(perturbed)
        return self.probe.ascent(self.direction(perturbed), norm, shards)

    def require_dense(self, gradients: Named) -> None:
        """Raises ValueError where a gradient is sparse and a part other than the identity would have to use it."""
        needs = [part for part in (self.direction, self.probe, self.transport) if type(part) not in (Direction, Metric)]
        for part in needs[:1]:
            sparse = [name for name, g in gradients.items() if g.is_sparse]
            if sparse:
                raise ValueError(
                    f"the gradient of {sparse[0]} is sparse, which {type(part).__name__} cannot use and plain SAM can; "
                    "set sparse=False on its embedding."
                )

    def place(self, gradients: Named) -> list[str]:
        """Lets the parts see gradients of zero, for a checkpoint needs tensors to load into; names those that made any.

        Args:
            gradients: Zeros.
        """
        before = self.state_dict()
        self.ascent(gradients, gradients, self.probe.norm, WHOLE)
        after = self.state_dict()
        return [part for part in PARTS if _tensors(after[part]) != _tensors(before[part])]

    def forget(self, parts: list[str]) -> None:
        """Undoes ``place``, and empties the list of its parts."""
        if parts:
            state = self.state_dict()
            self.load_state_dict({**state, **without_tensors(state, parts)})
            parts.clear()

    def kinds(self) -> dict[str, str]:
        """Returns the class names of the parts."""
        same = self.transport is self.probe
        return {
            "direction": type(self.direction).__name__,
            "probe": type(self.probe).__name__,
            "transport": "the probe" if same else type(self.transport).__name__,
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of the parts, and their classes."""
        same = self.transport is self.probe
        return {
            "parts": self.kinds(),
            "direction": self.direction.state_dict(),
            "probe": self.probe.state_dict(),
            "transport": None if same else self.transport.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``; ValueError where the parts are others, or one refuses its state."""
        for part, present in self.kinds().items():
            saved = state["parts"][part]
            if saved != present:
                raise ValueError(
                    f"the saved state has {part} {saved}, this optimizer {present}; "
                    "load it into one composed as the saved one was."
                )
        self.probe.load_state_dict(state["probe"])
        if state["transport"] is not None:
            self.transport.load_state_dict(state["transport"])
        self.direction.load_state_dict(state["direction"])


def without_tensors(state: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """Returns the states of these parts as they are before the first step, when there is no tensor yet."""

    def emptied(tree: Any) -> Any:
        if not isinstance(tree, Mapping):
            return tree
        return {key: emptied(value) for key, value in tree.items() if not isinstance(value, Tensor)}

    return {part: emptied(state[part]) for part in parts}


def _tensors(tree: Any) -> int:
    """Returns how many tensors there are in nested dictionaries."""
    if isinstance(tree, Mapping):
        return sum(map(_tensors, tree.values()))
    return int(isinstance(tree, Tensor))
