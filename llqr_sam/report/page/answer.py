"""Who wins, by how much and how surely: a sentence for each method of a table, and what was run.

A method is better than the baseline where Student's 95 % interval of its difference lies above 0, paired by seed. Over
several rows the difference is the mean over those with two seeds or more, at the seeds that all of these have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from llqr_sam.engine.records.record import Record
from llqr_sam.report.page.section import Answer, Difference, Sentence
from llqr_sam.report.page.track import Axis, Effect, tone
from llqr_sam.report.tables.accuracy_table import AccuracyTable, CellResult
from llqr_sam.report.tables.accuracy_text import signed
from llqr_sam.report.tables.labels import arch_label, dataset_label, method_label
from llqr_sam.report.tables.seed_statistics import Sample, mean_of

VERDICTS = {"above": "is better than", "below": "is worse than", "even": "cannot be told from"}


@dataclass(frozen=True)
class Found:
    """A method's difference to the baseline."""

    method: str
    sample: Sample
    places: Sequence[tuple[str, Sample]] = ()  # row by row, where it is a mean over several


def answer_of(table: AccuracyTable, baseline: str) -> Answer | None:
    """The sentences of a table; ``None`` if no method can be compared with the baseline."""
    found = []
    for cells in _columns(table):
        places = list(_by_place(cells, table))
        found.append(Found(method_label(cells[0].cell), _pooled(cells, table), places if len(places) > 1 else ()))
    return answer(found, baseline)


def answer(methods: Sequence[Found], baseline: str) -> Answer | None:
    """The sentences of methods, the highest difference first; ``None`` if no method has a difference."""
    found = sorted((each for each in methods if each.sample.values), key=lambda each: -(each.sample.mean or 0.0))
    if not found:
        return None
    axis = Axis.over([Effect(each.sample) for each in found])
    sentences = []
    for each in found:
        difference = difference_of(each.sample, axis)
        verdict = VERDICTS[difference.tone] if difference.n > 1 else "has one seed, too few to be compared with"
        places = [(place, difference_of(sample, axis)) for place, sample in each.places]
        sentences.append(Sentence(each.method, f"{verdict} {baseline}", difference, places))
    return Answer(_summary(sentences, baseline), sentences, axis)


def difference_of(sample: Sample, axis: Axis) -> Difference:
    """A difference to the baseline, on an axis."""
    interval = sample.t_interval()
    ends = f"[{signed(interval.low)}, {signed(interval.high)}]" if interval else ""
    side = tone(interval)
    return Difference(signed(sample.mean or 0.0), ends, len(sample.values), side, axis.track(Effect(sample), side))


def what_was_run(records: Iterable[Record], running: int) -> list[str]:
    """How many runs, on what, with which code and when."""
    runs = {record.run_id: record for record in records}.values()
    if not runs:
        return [f"no run has ended, {running} going on" if running else "no run has ended"]
    diverged = sum(record.status == "diverged" for record in runs)
    count = f"{len(runs)} run{'s' * (len(runs) != 1)}"
    said = [count + f", {diverged} of them diverged" * bool(diverged) + f", {running} going on" * bool(running)]
    devices = Counter(f"{record.devices} x {record.device}" if record.devices > 1 else record.device for record in runs)
    said.append(_listed(device for device, _ in devices.most_common()))
    said.append(f"torch {_listed(sorted({record.packages.get('torch', 'unknown') for record in runs}))}")
    commits = Counter(f"{(record.git_commit or 'unknown')[:7]}{'+' * record.git_dirty}" for record in runs)
    said.append(f"commit {_listed(commit for commit, _ in commits.most_common())}")
    days = sorted(datetime.fromisoformat(record.started).date() for record in runs)
    said.append(f"{days[0]}" if days[0] == days[-1] else f"{days[0]} to {days[-1]}")
    return said


def _listed(names: Iterable[str], most: int = 3) -> str:
    """``a, b, c and 4 more``."""
    found = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def _columns(table: AccuracyTable) -> list[list[CellResult]]:
    """The cells of each method that is not the baseline."""
    columns: dict[str, list[CellResult]] = {}
    for result in table.cells:
        if result.cell.method != table.config.baseline:
            columns.setdefault(result.cell.label, []).append(result)
    return list(columns.values())


def _pooled(cells: Sequence[CellResult], table: AccuracyTable) -> Sample:
    """The difference over the rows with two seeds or more; without such a row over those with one."""
    samples = [sample for result in cells if (sample := result.difference(table.kind)).values]
    return mean_of([sample for sample in samples if len(sample.values) > 1] or samples)


def _by_place(cells: Sequence[CellResult], table: AccuracyTable) -> Iterator[tuple[str, Sample]]:
    """What tells each row from the others (``ResNet-18``), and its difference."""
    shown = [(result, sample) for result in cells if (sample := result.difference(table.kind)).values]
    if not shown:
        return
    names = [
        (dataset_label(r.cell.dataset), arch_label(r.cell.arch), f"noise {r.cell.label_noise:g}") for r, _ in shown
    ]
    differing = [index for index, column in enumerate(zip(*names, strict=True)) if len(set(column)) > 1]
    for name, (_, sample) in zip(names, shown, strict=True):
        yield ", ".join(name[index] for index in differing), sample


def _summary(sentences: Sequence[Sentence], baseline: str) -> str:
    """``4 of 6 methods are better than SGDM, 1 is worse, 1 cannot be told from it.``"""
    if len(sentences) == 1:
        return f"{sentences[0].method} {sentences[0].verdict}."
    sides = Counter(sentence.difference.tone for sentence in sentences)
    better, worse, even = sides["above"], sides["below"], sides["even"]
    said = [f"{better} of {len(sentences)} methods {'is' if better == 1 else 'are'} better than {baseline}"]
    said += [f"{worse} {'is' if worse == 1 else 'are'} worse"] * bool(worse)
    said += [f"{even} cannot be told from it"] * bool(even)
    return f"{', '.join(said)}."
