from __future__ import annotations

import pytest
import torch

from llqr_sam.engine.measurements.rounds import Row, clock, exponent, time_rows


def test_exponent_of_a_power_law():
    sizes = [1e6, 5e6, 3e8]
    assert exponent(sizes, [3e-7 * size**1.27 for size in sizes]) == pytest.approx(1.27, abs=1e-12)


def test_rows_take_turns_after_a_warm_up_that_is_not_timed():
    calls: list[str] = []
    rows = [Row("a", lambda: calls.append("a")), Row("b", lambda: calls.append("b"), share=2)]
    time_rows(rows, 2, torch.device("cpu"))
    assert calls == ["a", "a", "b", "a", "b", "a", "b"]
    assert [len(row.seconds) for row in rows] == [2, 2]


def test_the_clock_waits_for_a_gpu(monkeypatch):
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    earlier = clock(torch.device("cpu"))
    assert not waited
    assert clock(torch.device("cuda", 1)) >= earlier
    assert waited == [torch.device("cuda", 1)]


def test_a_ratio_is_the_median_of_the_rounds_own():
    """One slow round that both rows share does not show."""
    unit, row = Row("unit", lambda: None, seconds=[1.0, 10.0, 1.0]), Row("row", lambda: None, seconds=[2.0, 20.0, 2.0])
    assert (row.ratio(unit), row.median) == (2.0, 2.0)
