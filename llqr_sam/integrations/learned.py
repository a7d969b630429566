"""Which metrics of an optimizer are learned, and so must be refreshed by the loop."""

from __future__ import annotations

from llqr_sam.methods.llqr import LLQR
from llqr_sam.methods.sharpness_aware import SharpnessAware


def learned_metrics(optimizer: SharpnessAware) -> list[LLQR]:
    """Returns each ``LLQR`` among probe and transport once, in one order on all ranks."""
    return [m for m in dict.fromkeys((optimizer.probe, optimizer.transport)) if isinstance(m, LLQR)]
