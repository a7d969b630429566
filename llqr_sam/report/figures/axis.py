"""Limits of an axis that shows means with their intervals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from llqr_sam.report.tables.seed_statistics import Interval


def limits(middles: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """Limits that hold 0 and all ``middles``, and the intervals but for those that would squeeze the others.

    An interval widens the limits by the range of the middles or the intervals' median width at most, and is cut there.

    Args:
        middles: Means, bounds and the paper's values.
        intervals: Of the means.
    """
    low, high = min(0.0, *middles), max(0.0, *middles)
    reach = max(high - low, statistics.median(end.high - end.low for end in intervals) if intervals else 0.0)
    low = min([low, *(max(interval.low, low - reach) for interval in intervals)])
    high = max([high, *(min(interval.high, high + reach) for interval in intervals)])
    margin = 0.05 * (high - low) or 1.0
    return Interval(low - margin, high + margin)
