"""Statistics over seeds: mean, standard deviation, 95 % intervals of the mean, and tests of whether it is 0.

Student's t interval is for a mean: it holds its level for three or five seeds of roughly normal results. The percentile
bootstrap is for a paired difference: it assumes no distribution, but is too narrow for so few seeds (for normal samples
it covers 75 % at n = 3 and 84 % at n = 5; docs/decisions.md). It shows the spread of the seeds and is not a test.

The sign-flip test assumes only that a difference of mean 0 is as likely with either sign. Its p-value is at least
2 / 2^n, so fewer than six seeds cannot bring it below 0.05.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import fsum, sqrt
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
EXACT = 6  # up to this many seeds, all n^n resamples are taken
DRAWS = 20_000  # random resamples for more seeds
FLIPPED = 16  # up to this many seeds, all 2^n patterns of signs are taken
POWER = 0.8  # of the difference that a sample can detect


class Interval(NamedTuple):
    """A closed interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """A number for each seed."""

    by_seed: Mapping[int, float]  # seed -> value

    @property
    def values(self) -> tuple[float, ...]:
        """The values, in the order in which the seeds were given."""
        return tuple(self.by_seed.values())

    @property
    def mean(self) -> float | None:
        """The mean; ``None`` if there are no values."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation; ``None`` for fewer than two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def minus(self, other: Sample) -> Sample:
        """Differences at the seeds that both samples have."""
        return Sample({seed: x - other.by_seed[seed] for seed, x in self.by_seed.items() if seed in other.by_seed})

    def map(self, function: Callable[[float], float]) -> Sample:
        """A function of each value."""
        return Sample({seed: function(value) for seed, value in self.by_seed.items()})

    def t_interval(self) -> Interval | None:
        """mean -+ t std / sqrt(n); ``None`` for fewer than two values."""
        n, mean, std = len(self.values), self.mean, self.std
        if mean is None or std is None:
            return None
        from scipy.stats import t as student  # takes half a second to import

        half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * std / sqrt(n)
        return Interval(mean - half, mean + half)

    def bootstrap_interval(self) -> Interval | None:
        """Percentiles of the mean of n values drawn with replacement; ``None`` for fewer than two values.

        Equal samples give equal intervals: the draws are seeded.
        """
        n = len(self.values)
        if n < 2:
            return None
        if n <= EXACT:
            resamples = np.array(list(product(self.values, repeat=n)))
        else:
            resamples = np.random.default_rng(0).choice(np.array(self.values), (DRAWS, n))
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(resamples.mean(axis=1), (tail, 1 - tail), method="inverted_cdf")
        return Interval(float(low), float(high))

    def sign_flip_p(self) -> float | None:
        """Two-sided p-value of the mean being 0; ``None`` for fewer than two values.

        The share of patterns of signs, the sample's own among them, whose mean is as far from 0 as the sample's. Beyond
        ``FLIPPED`` values the patterns are drawn; equal samples give equal p-values.
        """
        n, values = len(self.values), np.array(self.values)
        if n < 2:
            return None
        if n <= FLIPPED:
            patterns = np.array(list(product((1.0, -1.0), repeat=n)))
        else:
            patterns = np.random.default_rng(0).choice((1.0, -1.0), (DRAWS, n))
            patterns[0] = 1.0
        rounding = 1e-12 * np.abs(values).sum()  # sums that are equal on paper differ in the last digits
        return float(np.mean(np.abs(patterns @ values) >= abs(values.sum()) - rounding))

    def detectable(self) -> float | None:
        """The true mean that a t test at 5 % finds with 80 % power; ``None`` for fewer than two values.

        It is for the sample's number of values and its standard deviation, taken as the true one.
        """
        n, std = len(self.values), self.std
        if std is None:
            return None
        from scipy.optimize import brentq
        from scipy.stats import nct
        from scipy.stats import t as student

        critical = float(student.ppf((1 + LEVEL) / 2, n - 1))

        def lack(shift: float) -> float:  # the other tail has no part in a power of 80 %
            """Power that is missing where t is shifted."""
            return POWER - float(nct.sf(critical, n - 1, shift))

        return float(brentq(lack, 0.0, critical + 10)) * std / sqrt(n)


def mean_of(samples: Sequence[Sample]) -> Sample:
    """The mean over samples, at each seed that all of them have."""
    if not samples:
        return Sample({})
    seeds = [seed for seed in samples[0].by_seed if all(seed in sample.by_seed for sample in samples)]
    return Sample({seed: fsum(sample.by_seed[seed] for sample in samples) / len(samples) for seed in seeds})
