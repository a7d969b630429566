"""Means with intervals in percent of an axis."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llqr_sam.report.page.track import Axis, Effect, tone
from llqr_sam.report.tables.seed_statistics import Interval, Sample


def sample(*values: float) -> Sample:
    return Sample(dict(enumerate(values)))


numbers = st.floats(-50, 50).map(lambda value: round(value, 3))
effects = st.builds(
    Effect, st.lists(numbers, min_size=1, max_size=6).map(lambda values: sample(*values)), st.none() | numbers
)


@given(st.lists(effects, min_size=1, max_size=6))
def test_an_axis_holds_zero_the_means_and_the_papers_values(found):
    axis = Axis.over(found)
    for effect in found:
        track = axis.track(effect, "even")
        assert track is not None
        shown = [track.zero, track.mean, track.low, track.high, *([track.paper] if track.paper is not None else [])]
        assert all(0 <= at <= 100 for at in shown)
        assert track.low <= track.mean <= track.high


@given(numbers, numbers)
def test_what_is_greater_lies_further_right(a, b):
    first, second = Effect(sample(a)), Effect(sample(b))
    axis = Axis.over([first, second])
    left, right = axis.track(first, "even"), axis.track(second, "even")
    assert (left.mean < right.mean) == (a < b) or math.isclose(a, b, abs_tol=0.02)


def test_an_interval_far_wider_than_the_others_is_cut_and_says_so():
    """Two seeds: 12.7 times their standard error."""
    wide, narrow = Effect(sample(0.0, 2.0)), Effect(sample(0.9, 1.0, 1.1))
    axis = Axis.over([wide, narrow, narrow])
    cut, whole = axis.track(wide, "even"), axis.track(narrow, "above")
    assert (cut.cut_low, cut.cut_high) == (True, True)
    assert (whole.cut_low, whole.cut_high) == (False, False)


def test_a_lone_interval_is_shown_whole():
    wide = Effect(sample(0.0, 2.0))
    track = Axis.over([wide]).track(wide, "even")
    assert (track.cut_low, track.cut_high) == (False, False)


def test_a_single_seed_has_no_interval():
    effect = Effect(sample(1.0))
    track = Axis.over([effect]).track(effect, "even")
    assert track.low == track.high == track.mean
    assert Axis.over([effect]).track(Effect(sample()), "even") is None


@pytest.mark.parametrize(
    ("interval", "bound", "found"),
    [
        (Interval(0.1, 2.0), 0.0, "above"),
        (Interval(-2.0, -0.1), 0.0, "below"),
        (Interval(-1.0, 1.0), 0.0, "even"),
        (Interval(0.1, 2.0), 3.0, "below"),
        (None, 0.0, "even"),
    ],
)
def test_the_tone_depends_on_the_interval_alone(interval, bound, found):
    assert tone(interval, bound) == found


def test_ticks_of_ratios_are_ratios_and_one_is_among_them():
    effect = Effect(sample(math.log(2.0), math.log(3.0), math.log(2.5)), bound=math.log(1.25))
    axis = Axis.over([effect], ratios=True)
    labels = {label: at for at, label in axis.ticks}
    track = axis.track(effect, "above")
    assert labels["1"] == track.zero
    assert track.zero < track.bound < track.mean
    assert len(labels) <= 6


def test_ticks_of_differences_are_signed():
    axis = Axis.over([Effect(sample(-1.0, -1.1)), Effect(sample(2.0, 2.1))])
    labels = [label for _, label in axis.ticks]
    assert "0" in labels
    assert all(label == "0" or label[0] in "+-" for label in labels)
