"""The derivative of a function of the parameters along many directions, from one trace of the network.

Tracing a network in forward mode costs as much as dozens of gradient evaluations, and a refresh comes every few hundred
steps: so the network is traced once for each shape of minibatch, with its parameters, buffers and minibatch as
arguments, and the trace is cut in two (trace.py). What does not depend on the direction v runs once at each point; only
the rest runs for each product.

A trace holds whatever Python decided while it was made. Its values, and its derivative parameter by parameter, are
therefore compared with the network's own; a difference means tracing again, and then doing without.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from llqr_sam.methods.curvature.point import Point
from llqr_sam.methods.curvature.trace import Replayed, Signature, Trace, UntraceableError, signature
from llqr_sam.methods.named import Named

Push = Callable[[Named], list[Tensor]]
Verify = Callable[[Trace, Replayed], bool]
Entry = TypeVar("Entry")

KEPT = 8
"""Traces of one network that are kept, the latest ones used: a stream of minibatches has few shapes."""


class ForwardTrace:
    """v -> (d values / d theta) v for one network at changing points.

    Attributes:
        refusal: Why the latest point was not replayed; empty where it was.
        traces: Those that are kept, the latest used last.
    """

    def __init__(self) -> None:
        self.refusal = ""
        self.traces: OrderedDict[Signature, Trace] = OrderedDict()
        self._refused: OrderedDict[Signature, str] = OrderedDict()

    def __call__(self, point: Point, values: Sequence[Tensor], verify: Verify) -> Replayed | None:
        """The network at a point.

        Args:
            point: Where.
            values: What the function is there, computed without a trace.
            verify: Whether the derivative of a trace is that of the network.

        Returns:
            The values and their derivative, or ``None`` where the network cannot be replayed (``refusal`` says why).

        Raises:
            OutOfMemoryError: the device is full; the next call tries again.
        """
        known = self.known(point)
        self.refusal = known if isinstance(known, str) else ""
        while not self.refusal:
            key = signature(point)
            fresh = key not in self.traces
            try:
                trace = self.traces.pop(key, None) or Trace(point)
                replayed = trace.at(point)
                if agree(replayed.values, values, point.precision.eps) and verify(trace, replayed):
                    _keep(self.traces, key, trace, KEPT)
                    return replayed
                reason = "the trace has other values or derivatives than the network"
            except torch.OutOfMemoryError:  # a RuntimeError too, but no fault of the network's
                raise
            except Exception as error:  # the network itself has just run: whatever this is, it is the trace's
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if fresh:
                self.refusal = reason
                _keep(self._refused, key, reason, 8 * KEPT)
        return None

    def known(self, point: Point) -> Trace | str | None:
        """The trace that a call at this point starts with, or why it is not replayed, or ``None`` where it is new."""
        try:
            key = signature(point)
        except UntraceableError as error:
            return str(error)
        return self.traces.get(key) or self._refused.get(key)


class Replaying:
    """Products that come from a replay where the network has one."""

    def __init__(self) -> None:
        self._replay = ForwardTrace()

    @property
    def refusal(self) -> str:
        """Why the latest point was not replayed; empty where it was."""
        return self._replay.refusal

    @property
    def traces(self) -> Mapping[Signature, Trace]:
        """Those that are kept."""
        return self._replay.traces


def agree(found: Sequence[Tensor], expected: Sequence[Tensor], eps: float = 0.0) -> bool:
    """Whether two computations of the same tensors are one up to rounding, tensor by tensor.

    A tensor far smaller than the others may be all rounding. Values that are not finite say nothing.

    Args:
        found, expected: The two.
        eps: Spacing of the numbers that they were computed with, where it is coarser than their dtype's.
    """
    expected = [t.detach() for t in expected]
    sizes = torch.stack(torch._foreach_norm(expected))
    whole = torch.linalg.vector_norm(sizes)
    differences = torch.stack(torch._foreach_norm(torch._foreach_sub(list(found), expected)))
    relative, rounding = (1e-7, 1e-11) if whole.dtype == torch.float64 else (1e-3, 1e-5)
    relative, rounding = max(relative, 8 * eps), max(rounding, eps)
    return not bool(torch.isfinite(whole)) or bool((differences <= relative * sizes + rounding * whole).all())


def random_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """A direction of normal entries in which each tensor has unit norm; the same at each call."""
    directions = []
    for i, t in enumerate(tensors):
        generator = torch.Generator(t.device).manual_seed(i)  # the caller's random numbers stay his
        x = torch.randn(t.shape, generator=generator, dtype=t.dtype, device=t.device)
        directions.append(x / torch.linalg.vector_norm(x).clamp_min(torch.finfo(t.dtype).tiny))
    return directions


def _keep(kept: OrderedDict[Signature, Entry], key: Signature, entry: Entry, most: int) -> None:
    kept[key] = entry
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
