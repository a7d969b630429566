"""What runs reached, grouped by their settings: a point is all runs that differ in their seeds alone.

``collect`` takes the runs of a plan, ``recorded`` any records. Both say which settings vary (``suite/plan/labels.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from llqr_sam.engine.records.record import Accuracy, Record
from llqr_sam.engine.settings.flat import leaves
from llqr_sam.report.tables.seed_statistics import Sample
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.plan.labels import IDENTITY, METHOD, SEED, Flat, method_name, text, varying
from llqr_sam.suite.status.status import Status, mixed

NONE = "-"  # a setting that a method does not have


@dataclass(frozen=True)
class Outcome:
    """A run, whether it was trained or not."""

    settings: Flat
    state: str  # finished, diverged, failed, running or missing
    record: Record | None

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.settings[SEED])


@dataclass(frozen=True)
class Point:
    """Runs that differ in their seeds alone."""

    settings: Flat  # of its first run
    values: Mapping[str, str]  # identity and what varies, in words; the same keys for every point of a sweep
    runs: tuple[Outcome, ...]

    @cached_property
    def best(self) -> Sample:
        """Best score over training of each finished run."""
        return self._sample(lambda record: record.metrics.best)

    @cached_property
    def last(self) -> Sample:
        """Score of the last epoch of each finished run."""
        return self._sample(lambda record: record.metrics.last)

    def named(self, key: str) -> str:
        """A value in words; of ``optim.name`` with the geometry. What does not vary has none."""
        return method_name(self.settings) if key == "optim.name" else self.values.get(key, NONE)

    @property
    def states(self) -> Counter[str]:
        """How many runs are in each state."""
        return Counter(run.state for run in self.runs)

    def _sample(self, of: Callable[[Record], Accuracy]) -> Sample:
        found: dict[int, Accuracy] = {
            run.seed: of(run.record) for run in self.runs if run.record is not None and run.state == "finished"
        }
        return Sample({seed: each.score for seed, each in sorted(found.items()) if each.score is not None})


@dataclass(frozen=True)
class Sweep:
    """Points, and the settings in which they differ."""

    points: tuple[Point, ...]

    @property
    def varied(self) -> tuple[str, ...]:
        """The settings that vary beside data set, network and method."""
        return tuple(key for key in self.points[0].values if key not in IDENTITY) if self.points else ()

    @property
    def differing(self) -> tuple[str, ...]:
        """All settings in which points differ."""
        keys = self.points[0].values if self.points else ()
        return tuple(key for key in keys if len({point.values[key] for point in self.points}) > 1)

    @property
    def unit(self) -> str:
        """Of the scores: % or BLEU; both if there are both."""
        runs = [run for point in self.points for run in point.runs]
        records = [run.record for run in runs if run.record is not None and run.state == "finished"]
        return " or ".join(sorted({record.metrics.best.unit for record in records})) or "%"

    def ordered(self, over: Sequence[str]) -> Sweep:
        """The points in rising order of what varies, of the keys ``over`` last."""
        keys = [*_beside(over, self.points[0].values), *over] if self.points else []

        def place(point: Point) -> list[tuple[float, str]]:
            return [(number(point, key) or 0.0, point.named(key)) for key in keys]

        return Sweep(tuple(sorted(self.points, key=place)))

    def series(self, over: Sequence[str]) -> dict[tuple[tuple[str, str], ...], list[Point]]:
        """The points in groups that differ in the keys ``over`` alone: key and value of what they share -> points.

        Over ``optim.name`` a series holds all methods, whatever their geometry.
        """
        found: dict[tuple[tuple[str, str], ...], list[Point]] = {}
        for point in self.points:
            shared = tuple((key, point.values[key]) for key in _beside(over, point.values))
            found.setdefault(shared, []).append(point)
        return found


def _beside(over: Sequence[str], keys: Iterable[str]) -> list[str]:
    """The keys that tell series over ``over`` apart; a geometry belongs to its method."""
    free = {*over, *(METHOD if "optim.name" in over else ())}
    return [key for key in keys if key not in free]


def best_of(points: Iterable[Point]) -> Point | None:
    """The point with the highest mean; ``None`` if no run is finished.

    A point with a run that diverged is none, unless every point has one: the mean of its other seeds flatters it.
    """
    scored = [point for point in points if point.best.values]
    sound = [point for point in scored if not point.states["diverged"]] or scored
    return max(sound, key=lambda point: point.best.mean or 0.0, default=None)


def collect(status: Status) -> Sweep:
    """The runs of a plan. A UsageError if records of one data set are of different data."""
    status.check_mixtures()
    runs = {run.run_id: run for run in status.runs}.values()
    return grouped(
        [Outcome(leaves(r.settings.as_dict()), status.of_run(r), status.records.get(r.run_id)) for r in runs]
    )


def recorded(records: Iterable[Record]) -> list[Outcome]:
    """A run for each run id; of several records of a run a finished one counts, as in every table."""
    by_run: dict[str, Record] = {}
    for record in records:
        if record.run_id not in by_run or by_run[record.run_id].status != "finished":
            by_run[record.run_id] = record
    return [Outcome(leaves(record.config), record.status, record) for record in by_run.values()]


def grouped(runs: Sequence[Outcome]) -> Sweep:
    """The runs as points, in the order in which the first of each comes."""
    varied = varying([run.settings for run in runs])
    points: dict[tuple[tuple[str, str], ...], list[Outcome]] = {}
    for run, values in zip(runs, varied, strict=True):
        words = {key: text(run.settings[key]) if key in run.settings else NONE for key in IDENTITY}
        words |= {key: NONE if value is None else value for key, value in values.items()}
        points.setdefault(tuple(words.items()), []).append(run)
    return Sweep(tuple(Point(same[0].settings, dict(words), tuple(same)) for words, same in points.items()))


def number(point: Point, key: str) -> float | None:
    """The point's value of a setting, if it is a number."""
    value = point.settings.get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def check_data(runs: Sequence[Outcome]) -> None:
    """Raises a UsageError if records of one data set are of different data: no mean may mix them."""
    for name, found in mixed(run.record for run in runs if run.record is not None).items():
        remedy = "leave some out, or keep each kind under a paths.results= of its own"
        raise UsageError(f"the records of dataset={name} are of different data, {found}: {remedy}.")
