from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llqr_sam.report.tables.seed_statistics import EXACT, FLIPPED, Interval, Sample, mean_of

stats = pytest.importorskip("scipy.stats")


def sample(*values: float) -> Sample:
    return Sample(dict(enumerate(values)))


samples = st.lists(st.floats(-100, 100), min_size=2, max_size=EXACT).map(lambda values: sample(*values))


def test_nothing_is_said_of_too_few():
    for few in (sample(), sample(3.0)):
        assert (few.std, few.t_interval(), few.bootstrap_interval()) == (None, None, None)
        assert (few.sign_flip_p(), few.detectable()) == (None, None)
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


@pytest.mark.parametrize("n", [2, 3, 7, 12])
def test_sign_flips_are_those_of_scipys_permutation_test(n):
    """Another implementation, which takes all 2^n patterns too."""
    values = np.random.default_rng(n).standard_normal(n) + 0.5
    judge = stats.permutation_test(
        (values, np.zeros(n)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert sample(*values).sign_flip_p() == pytest.approx(judge.pvalue)


def test_the_smallest_p_value_is_that_of_two_patterns():
    """All of one sign: only the sample and its mirror image are as far from 0."""
    assert sample(0.1, 0.2, 0.3).sign_flip_p() == 2 / 8
    assert sample(*[-0.1] * 10).sign_flip_p() == 2 / 1024
    assert sample(0.0, 0.0, 0.0).sign_flip_p() == 1.0


def test_drawn_sign_flips_agree_with_the_t_test_and_repeat():
    """Beyond ``FLIPPED`` values: of 40 normal ones both tests are close; a sure sample's p-value stays above 0."""
    values = np.random.default_rng(3).standard_normal(40) + 0.3
    p = sample(*values).sign_flip_p()
    assert p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, abs=0.01)
    assert p == sample(*values).sign_flip_p()
    assert 0 < sample(*[1.0] * (FLIPPED + 20)).sign_flip_p() < 1e-3


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_detectable_differences_need_the_sample_sizes_of_the_textbooks(effect, n):
    """Cohen's small, medium and large effect: pairs that a t test at 5 %, two-sided, needs for 80 % power."""
    enough, fewer = (sample(*range(size)).detectable() / np.std(range(size), ddof=1) for size in (n, n - 1))
    assert enough <= effect < fewer


@pytest.mark.parametrize("n", [2, 3, 6])
def test_a_detectable_difference_is_found_in_four_of_five_trials(n):
    """By simulation: the share of t intervals that leave out 0 where the true mean is the detectable one."""
    spread = np.arange(float(n))
    shift = sample(*spread).detectable() / spread.std(ddof=1)
    trials = np.random.default_rng(0).standard_normal((20_000, n)) + shift
    found = stats.ttest_1samp(trials, 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_t_intervals_cover_the_truth_nineteen_times_in_twenty():
    """By simulation, of normal samples of five."""
    trials = np.random.default_rng(0).standard_normal((2_000, 5))
    intervals = [sample(*trial).t_interval() for trial in trials]
    assert np.mean([interval.low <= 0 <= interval.high for interval in intervals]) == pytest.approx(0.95, abs=0.015)


def test_map():
    assert dict(Sample({3: 1.0, 5: 4.0}).map(math.sqrt).by_seed) == {3: 1.0, 5: 2.0}


def test_the_mean_of_samples_is_over_the_seeds_that_all_have():
    first, second = Sample({0: 1.0, 1: 2.0, 2: 3.0}), Sample({1: 4.0, 2: 7.0, 3: 9.0})
    assert dict(mean_of([first, second]).by_seed) == {1: 3.0, 2: 5.0}
    assert mean_of([first]) == first
    assert mean_of([]).values == ()
