from __future__ import annotations

import pytest
import torch

from llqr_sam.engine.measurements.rounds import Workload, clock, exponent, time_in_rounds


def test_exponent_of_a_power_law():
    sizes = [1e6, 5e6, 3e8]
    assert exponent(sizes, [3e-7 * size**1.27 for size in sizes]) == pytest.approx(1.27, abs=1e-12)


def test_workloads_take_turns_after_a_warm_up_that_is_not_timed():
    calls: list[str] = []
    workloads = [Workload("a", lambda: calls.append("a")), Workload("b", lambda: calls.append("b"), share=2)]
    time_in_rounds(workloads, 2, torch.device("cpu"))
    assert calls == ["a", "a", "b", "a", "b", "a", "b"]
    assert [len(workload.seconds) for workload in workloads] == [2, 2]


def test_the_clock_waits_for_a_gpu(monkeypatch):
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    earlier = clock(torch.device("cpu"))
    assert not waited
    assert clock(torch.device("cuda", 1)) >= earlier
    assert waited == [torch.device("cuda", 1)]


def test_a_ratio_is_the_median_of_the_rounds_own():
    """One slow round that both workloads share does not show."""
    unit, row = (
        Workload("unit", lambda: None, seconds=[1.0, 10.0, 1.0]),
        Workload("row", lambda: None, seconds=[2.0, 20.0, 2.0]),
    )
    assert (row.ratio(unit), row.median) == (2.0, 2.0)
