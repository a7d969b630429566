"""Statistics over seeds: mean, standard deviation and 95 % intervals of the mean.

Student's t interval is for a mean: it holds its level for three or five seeds of roughly normal results. The percentile
bootstrap is for a paired difference: it assumes no distribution, but is too narrow for so few seeds (for normal samples
it covers 75 % at n = 3 and 84 % at n = 5; docs/decisions.md). It shows the spread of the seeds and is not a test.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import sqrt
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
EXACT = 6  # up to this many seeds, all n^n resamples are taken
DRAWS = 20_000  # random resamples for more seeds


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
