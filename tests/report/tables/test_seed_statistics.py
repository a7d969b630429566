from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llqr_sam.report.tables.seed_statistics import EXACT, Interval, Sample

stats = pytest.importorskip("scipy.stats")


def sample(*values: float) -> Sample:
    return Sample(dict(enumerate(values)))


samples = st.lists(st.floats(-100, 100), min_size=2, max_size=EXACT).map(lambda values: sample(*values))


def test_nothing_is_said_of_too_few():
    for few in (sample(), sample(3.0)):
        assert (few.std, few.t_interval(), few.bootstrap_interval()) == (None, None, None)
    assert (sample().mean, sample(3.0).mean) == (None, 3.0)


@pytest.mark.parametrize("values", [(1.0, 2.0), (79.2, 79.5, 78.9), (81.82, 81.6, 82.0, 81.7, 81.9)])
def test_t_interval_is_that_of_scipys_t_test(values):
    interval = sample(*values).t_interval()
    assert interval is not None
    judge = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((judge.low, judge.high))


def test_bootstrap_of_two_is_the_two():
    """Means a, (a + b) / 2 and b with probabilities 1/4, 1/2 and 1/4."""
    assert sample(1.0, 2.0).bootstrap_interval() == Interval(1.0, 2.0)


def test_bootstrap_of_four_zeros_and_a_one():
    """Five times the mean is binomial (5, 1/5): P(0) = 0.328, P(<= 2) = 0.942, P(<= 3) = 0.993."""
    assert sample(0.0, 0.0, 1.0, 0.0, 0.0).bootstrap_interval() == Interval(0.0, 0.6)


@pytest.mark.parametrize("n", [5, EXACT, EXACT + 1, 12])
def test_bootstrap_agrees_with_scipys(n):
    """The exact distribution, and the draws beyond it, against another implementation's draws."""
    values = np.random.default_rng(n).standard_normal(n)
    interval = sample(*values).bootstrap_interval()
    assert interval is not None
    judge = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert (interval.low, interval.high) == pytest.approx((judge.low, judge.high), abs=0.03)


@pytest.mark.parametrize("n", [5, 12])
def test_bootstrap_is_the_same_at_every_call(n):
    values = np.random.default_rng(n).standard_normal(n)
    assert sample(*values).bootstrap_interval() == sample(*values).bootstrap_interval()


@given(samples)
def test_bootstrap_lies_between_the_extremes_around_the_mean(drawn):
    interval = drawn.bootstrap_interval()
    assert interval is not None
    low, high = min(drawn.values), max(drawn.values)
    slack = 1e-9 * (1 + abs(low) + abs(high))
    assert low - slack <= interval.low <= drawn.mean + slack
    assert drawn.mean - slack <= interval.high <= high + slack


@given(samples, st.permutations(range(EXACT)))
def test_order_does_not_matter(drawn, order):
    shuffled = sample(*(drawn.values[index] for index in order if index < len(drawn.values)))
    ours, theirs = drawn.bootstrap_interval(), shuffled.bootstrap_interval()
    assert ours is not None
    assert theirs is not None
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_differences_are_over_common_seeds():
    ours, theirs = Sample({0: 5.0, 2: 7.0, 3: 1.0}), Sample({2: 6.5, 0: 1.0, 9: 4.0})
    assert dict(ours.minus(theirs).by_seed) == {0: 4.0, 2: 0.5}
    assert ours.minus(Sample({})).mean is None


def test_pairing_takes_out_what_seeds_share():
    """Seeds far apart, one point between methods: the paired interval is the point."""
    theirs = sample(10.0, 50.0, 90.0)
    interval = sample(11.0, 51.0, 91.0).minus(theirs).bootstrap_interval()
    assert interval == Interval(1.0, 1.0)
    assert math.isclose(theirs.std or 0.0, 40.0)
