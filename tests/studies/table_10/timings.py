"""Measurements that were never made, for what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llqr_sam.studies.table_10.timing import SCHEMA_VERSION, RefreshTime, StepTime, Timing


def timing_of(arch: str, parameters: int, scale: float = 1.0) -> Timing:
    """Two rounds, the second twice as slow: SGD 1, AdamW 1.25, SAM 2, LLQR 1, LLQR+SAM 2 seconds; a refresh 100."""
    seconds = {"sgdm": 1.0, "adamw": 1.25, "sam": 2.0, "llqr": 1.0, "llqr_sam": 2.0}
    return Timing(
        schema=SCHEMA_VERSION,
        arch=arch,
        parameters=parameters,
        image_size=224,
        classes=1000,
        batch=2,
        precision={"autocast": "float32"},
        device="a CPU",
        threads=2,
        git_commit="0123456789",
        git_dirty=False,
        packages={"torch": "2"},
        started="2026-01-01T00:00:00+00:00",
        steps=[StepTime(name, [scale * s, 2 * scale * s], None) for name, s in seconds.items()],
        refresh=RefreshTime("ngd", "diagonal", 50, 50, [scale, scale], [100 * scale, 200 * scale], None),
    )


def write_timings(results: Path) -> list[Timing]:
    """ViT-S and ViT-B, whose times grow with the parameters to the power 1.5."""
    timings = [timing_of("vit_small", 22_050_664), timing_of("vit_base", 86_567_656, (86_567_656 / 22_050_664) ** 1.5)]
    for timing in timings:
        timing.write(results / "timings" / f"{timing.arch}.json")
    return timings


def busy(path: Path) -> dict[str, Any]:
    """A record's content, if a refresh of 5 inner steps had taken no longer than one of 1."""
    tree: dict[str, Any] = json.loads(path.read_text())
    tree["refresh"] |= {"timed": 5, "inner_steps": 50, "first": [9.0, 9.0], "longer": [8.0, 8.0]}
    return tree
