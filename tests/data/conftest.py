"""Loading with everything but the point of a test left at its default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llqr_sam.data.loading import Splits, load


@pytest.fixture
def load_with(tmp_path: Path) -> Callable[..., Splits]:
    """``load`` with defaults; data sets are looked for in an empty folder unless told otherwise."""
    defaults: dict[str, Any] = {
        "path": None,
        "root": tmp_path / "nothing",
        "label_noise": 0.0,
        "crop": "image",
        "augment": True,
        "batch_size": 16,
        "seed": 0,
        "device": torch.device("cpu"),
        "workers": 0,
    }
    return lambda name, **changes: load(name, **{**defaults, **changes})
