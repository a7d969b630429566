"""The forward traces of one network that are kept from refresh to refresh.

Tracing a network in forward mode costs as much as dozens of gradient evaluations, and a refresh comes every few hundred
steps. So the network is traced once for each shape of minibatch (trace.py), with its parameters, buffers and minibatch
as arguments.

A trace holds whatever Python decided while it was made. At each point its values and its derivative are therefore
compared with the network's own; where they differ, the network is traced again, and then not replayed at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from llqr_sam.methods.curvature.point import Point
from llqr_sam.methods.curvature.trace import ForwardTrace, Linearization, Signature, UntraceableError, signature

Verify = Callable[[ForwardTrace, Linearization], bool]
Entry = TypeVar("Entry")

KEPT = 8
"""Traces that are kept, the latest used: a stream of minibatches has few shapes."""


class TraceCache:
    """Traces of one network by signature.

    Args:
        disabled: Why nothing is traced; empty where something is.

    Attributes:
        refusal: Why the latest point was not replayed; empty where it was.
        traces: The kept traces, the latest used last.
    """

    def __init__(self, disabled: str = "") -> None:
        self.refusal = self._disabled = disabled
        self.traces: OrderedDict[Signature, ForwardTrace] = OrderedDict()
        self._refused: OrderedDict[Signature, str] = OrderedDict()

    def at(self, point: Point, values: Sequence[Tensor], verify: Verify) -> Linearization | None:
        """Replays the network at a point.

        Args:
            point: The point.
            values: ``point.values`` there, computed without a trace.
            verify: Says whether the derivative of a trace is the network's.

        Returns:
            The values and their derivative, or ``None`` where the network cannot be replayed (``refusal`` says why).

        Raises:
            OutOfMemoryError: the device is full; the next call tries again.
        """
        self.known(point)
        while not self.refusal:
            key = signature(point)
            fresh = key not in self.traces
            try:
                trace = self.traces.pop(key, None) or ForwardTrace(point)
                found = trace.at(point)
                if agree(found.values, values, point.precision.eps) and verify(trace, found):
                    _keep(self.traces, key, trace, KEPT)
                    return found
                reason = "the trace has other values or derivatives than the network"
            except torch.OutOfMemoryError:  # a RuntimeError too, but no fault of the network's
                raise
            except Exception as error:  # the network itself has just run, so this is the trace's error
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if fresh:
                self.refusal = reason
                _keep(self._refused, key, reason, 8 * KEPT)
        return None

    def known(self, point: Point) -> ForwardTrace | None:
        """The trace that a call at this point starts with; sets ``refusal`` where the point is known to have none."""
        trace, self.refusal = None, self._disabled
        if not self.refusal:
            try:
                key = signature(point)
                trace, self.refusal = self.traces.get(key), self._refused.get(key, "")
            except UntraceableError as error:
                self.refusal = str(error)
        return trace


def agree(found: Sequence[Tensor], expected: Sequence[Tensor], eps: float = 0.0) -> bool:
    """Whether two computations of the same tensors are equal up to rounding, tensor by tensor.

    A tensor far smaller than the others may be all rounding. Values that are not finite count as equal.

    Args:
        found, expected: The two computations.
        eps: Relative spacing of the numbers that they were computed with, where it is coarser than their dtype's.
    """
    expected = [t.detach() for t in expected]
    sizes = torch.stack(torch._foreach_norm(expected))
    whole = torch.linalg.vector_norm(sizes)
    differences = torch.stack(torch._foreach_norm(torch._foreach_sub(list(found), expected)))
    relative, rounding = (1e-7, 1e-11) if whole.dtype == torch.float64 else (1e-3, 1e-5)
    relative, rounding = max(relative, 8 * eps), max(rounding, eps)
    return not bool(torch.isfinite(whole)) or bool((differences <= relative * sizes + rounding * whole).all())


def _keep(kept: OrderedDict[Signature, Entry], key: Signature, entry: Entry, most: int) -> None:
    kept[key] = entry
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
