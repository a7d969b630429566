"""Waiting for a condition instead of a time: a slow or busy machine takes longer and gets the same result."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 300.0  # seconds after which something hangs; nothing that works comes near it


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return when ``condition`` holds.

    Args:
        condition: Is asked twenty times a second.
        seconds: After which it is given up.

    Raises:
        TimeoutError: it never did.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the condition did not hold within {seconds:g} seconds")
        time.sleep(0.05)
