"""Timing real methods on a narrow ResNet-18."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from llqr_sam.data.registry import info
from llqr_sam.engine.timing import Effort, RefreshTime, Timing, measure, read_timings, timing_name
from tests.suite.plans import settings_of

CPU = torch.device("cpu")
EFFORT = Effort(batch=2, rounds=3, steps=2, inner_steps=2)
METHODS = ("sgdm", "adamw", "sam", "llqr_sam")
RUNS = [settings_of("dataset=cifar10", "arch.width=4", f"optim={name}") for name in METHODS]


@pytest.fixture(scope="module")
def timing() -> Timing:
    return measure(RUNS, info("cifar10"), EFFORT, CPU)


def test_every_method_is_timed_in_every_round(timing: Timing) -> None:
    assert [step.method for step in timing.steps] == ["sgdm", "adamw", "sam", "llqr_sam"]
    assert all(len(step.seconds) == 3 and min(step.seconds) > 0 for step in timing.steps)
    refresh = timing.refresh
    assert refresh is not None
    assert (refresh.divergence, refresh.structure, refresh.inner_steps, refresh.timed) == ("ngd", "diagonal", 50, 2)
    assert len(refresh.first) == len(refresh.longer) == 3
    assert (timing.batch, timing.image_size, timing.classes) == (2, 32, 10)
    assert timing.device
    assert timing.threads >= 1


def test_methods_without_a_metric_need_no_refresh() -> None:
    timing = measure(RUNS[:1], info("cifar10"), dataclasses.replace(EFFORT, rounds=1, inner_steps=0), CPU)
    assert timing.refresh is None
    assert timing.of("sgdm") == timing.steps[0]
    assert timing.of("sam") is None


def test_reads_what_it_wrote(timing: Timing, tmp_path: Path) -> None:
    timing.write(tmp_path / "a.json")
    assert read_timings(tmp_path) == ([timing], [])


def test_a_damaged_measurement_is_named(timing: Timing, tmp_path: Path) -> None:
    timing.write(tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "b.json").write_text(text.replace('"batch": 2', '"batch": "two"'))
    found, damaged = read_timings(tmp_path)
    assert found == [timing]
    assert damaged == [f'{tmp_path / "b.json"}: batch is "two", expected int']


def test_the_name_tells_settings_and_effort_apart() -> None:
    other = dataclasses.replace(EFFORT, batch=4)
    names = {timing_name(RUNS, EFFORT, CPU), timing_name(RUNS, other, CPU), timing_name(RUNS[:2], EFFORT, CPU)}
    assert len(names) == 3
    assert timing_name(RUNS, EFFORT, CPU) in names
    assert timing_name(RUNS, EFFORT, CPU).startswith("resnet18-")
    assert "-b2-ngd-diagonal-" in timing_name(RUNS, EFFORT, CPU)


def refresh_time(timed: int, first: list[float], longer: list[float]) -> RefreshTime:
    return RefreshTime("ngd", "diagonal", 50, timed, first, longer, None)


def test_a_refresh_is_composed_linearly_in_its_inner_steps() -> None:
    """Times a + b T: 1 + 0.5 T here."""
    assert refresh_time(5, [1.5], [3.5]).seconds == pytest.approx([26.0])
    assert refresh_time(50, [1.5], [27.0]).seconds == [27.0]  # timed whole, so what was measured


def test_a_disturbed_round_changes_its_own_figure_alone() -> None:
    assert refresh_time(5, [1.5, 1.5, 9.0], [3.5, 8.5, 3.5]).seconds == pytest.approx([26.0, 31.0, 26.0])
