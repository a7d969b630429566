"""What a refresh of the learned metric U reports, and when it gives up."""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE = 3
"""Refreshes in a row that may come out non-finite before the run is stopped."""


class RefreshError(RuntimeError):
    """Three refreshes of U in a row were not finite; training should stop."""


@dataclass(frozen=True)
class RefreshReport:
    """What one refresh did.

    Args:
        objective_before: J at the stored U before the refresh (paper, eq. 9).
        objective_after: J at the stored U after averaging, on the same minibatch.
        relative_change: |U g - g| / |g| after averaging: whether U does anything.
        fallbacks: Perturbations since the last refresh that fell back to the Euclidean norm.
        accepted: Whether the refresh was finite; if not, U was kept as it was.
        seconds: Wall time in seconds.
        unreplayed: Why products with the curvature did not replay a trace of the network, which takes about half the
            time; empty where they did.
    """

    objective_before: float
    objective_after: float
    relative_change: float
    fallbacks: int
    accepted: bool
    seconds: float
    unreplayed: str = ""
