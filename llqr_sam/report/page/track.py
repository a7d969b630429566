"""A mean with its interval as a small plot in a line of text: positions in percent of an axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from llqr_sam.report.figures.axis import limits
from llqr_sam.report.tables.seed_statistics import Interval, Sample

TICKS = 5  # labels of an axis, at most
RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)


@dataclass(frozen=True)
class Effect:
    """What a track shows, in the units of the statistics (of a ratio: its logarithm)."""

    sample: Sample  # a difference, or the logarithm of a ratio, for each seed
    paper: float | None = None
    bound: float = 0.0  # that the effect is held against


@dataclass(frozen=True)
class Track:
    """A mean, its interval and the paper's value, in percent of the axis."""

    mean: float
    low: float  # of the interval, cut at the axis; equal to ``high`` where there is none
    high: float
    zero: float  # where there is no effect
    bound: float | None  # where that is not ``zero``
    paper: float | None
    tone: str  # above, below or even: the colour and the marker
    cut_low: bool  # the interval goes on beyond the axis
    cut_high: bool


@dataclass(frozen=True)
class Axis:
    """The common axis of some tracks."""

    ends: Interval
    ticks: tuple[tuple[float, str], ...]  # percent and label

    @classmethod
    def over(cls, effects: Sequence[Effect], *, ratios: bool = False) -> Axis:
        """The axis that holds the effects."""
        middles = [value for effect in effects for value in (effect.sample.mean, effect.paper, effect.bound)]
        intervals = [interval for effect in effects if (interval := effect.sample.t_interval())]
        ends = limits([value for value in middles if value is not None], intervals)
        return cls(ends, tuple((_percent(at, ends), name) for at, name in (_ratios if ratios else _differences)(ends)))

    def track(self, effect: Effect, tone: str) -> Track | None:
        """Where an effect lies; ``None`` without a mean."""
        mean, (low, high) = effect.sample.mean, self.ends
        if mean is None:
            return None
        interval = effect.sample.t_interval()
        ends = interval or Interval(mean, mean)
        return Track(
            mean=_percent(mean, self.ends),
            low=_percent(max(ends.low, low), self.ends),
            high=_percent(min(ends.high, high), self.ends),
            zero=_percent(0.0, self.ends),
            bound=_percent(effect.bound, self.ends) if effect.bound else None,
            paper=None if effect.paper is None else _percent(effect.paper, self.ends),
            tone=tone,
            cut_low=ends.low < low,
            cut_high=ends.high > high,
        )


def tone(interval: Interval | None, bound: float = 0.0) -> str:
    """``above`` or ``below`` if the whole interval lies there, else ``even``."""
    if interval is None or interval.low <= bound <= interval.high:
        return "even"
    return "above" if interval.low > bound else "below"


def _percent(value: float, ends: Interval) -> float:
    return round(100 * (value - ends.low) / (ends.high - ends.low), 2)


def _differences(ends: Interval) -> Iterator[tuple[float, str]]:
    values = map(float, MaxNLocator(TICKS - 1).tick_values(*ends))
    return ((value, f"{value:+g}" if value else "0") for value in values if ends.low <= value <= ends.high)


def _ratios(ends: Interval) -> Iterator[tuple[float, str]]:
    shown = [ratio for ratio in RATIOS if ends.low <= math.log(ratio) <= ends.high]
    step = -(-len(shown) // TICKS)
    kept = [ratio for ratio in shown if (shown.index(ratio) - shown.index(1.0)) % max(step, 1) == 0]
    return ((math.log(ratio), f"{ratio:g}") for ratio in kept)
