"""Numbers over seeds: mean, deviation, and how sure the mean is.

Two 95 % intervals. Student's t for a mean, which holds its level for three or five seeds of roughly normal results. The
percentile bootstrap for a paired difference, which asks no distribution and is too narrow for so few (covers 75 % at
n = 3 and 84 % at n = 5 of normal samples; docs/decisions.md): it shows the spread of the seeds, it is no test.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import sqrt

import numpy as np

LEVEL = 0.95
EXACT = 6  # up to so many seeds all n^n resamples are taken
DRAWS = 20_000  # resamples beyond


@dataclass(frozen=True)
class Interval:
    """Closed, in the unit of what it is about."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Sample:
    """A number for each seed.

    Args:
        by_seed: Seed -> value.
    """

    by_seed: Mapping[int, float]

    @property
    def values(self) -> tuple[float, ...]:
        """In the order of the seeds as given."""
        return tuple(self.by_seed.values())

    @property
    def mean(self) -> float | None:
        """``None`` of nothing."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation, from two values on."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def minus(self, other: Sample) -> Sample:
        """The differences at the seeds that both have."""
        return Sample(
            {seed: value - other.by_seed[seed] for seed, value in self.by_seed.items() if seed in other.by_seed}
        )

    def t_interval(self) -> Interval | None:
        """mean -+ t std / sqrt(n), from two values on."""
        n, mean, std = len(self.values), self.mean, self.std
        if mean is None or std is None:
            return None
        from scipy.stats import t as student  # half a second that a table without results need not wait

        half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * std / sqrt(n)
        return Interval(mean - half, mean + half)

    def bootstrap_interval(self) -> Interval | None:
        """Percentiles of the mean of n values drawn with replacement, from two values on; the same at every call."""
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
