"""Who wins, by how much and how surely: a sentence for each method in a row of a table, and what was run.

A method is better than the baseline where Student's 95 % interval of its difference lies above 0, paired by seed. Rows
are not pooled: methods were not run on the same rows, nor with the same seeds in each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from llqr_sam.engine.records.provenance import commit_label
from llqr_sam.engine.records.record import Record
from llqr_sam.report.page.section import Answer, Difference, Sentence
from llqr_sam.report.page.track import Axis, Effect, tone
from llqr_sam.report.tables.accuracy_text import signed
from llqr_sam.report.tables.seed_statistics import Sample

VERDICTS = {"above": "is better than", "below": "is worse than", "even": "cannot be told from"}
ONE_SEED = "has one seed, too few to be compared with"


def difference_of(sample: Sample, axis: Axis) -> Difference:
    """A difference to the baseline, on an axis; the sample has a value."""
    mean, interval = sample.mean or 0.0, sample.t_interval()
    ends = f"[{signed(interval.low)}, {signed(interval.high)}]" if interval else ""
    side = tone(interval)
    return Difference(mean, signed(mean), ends, len(sample.values), side, axis.track(Effect(sample), side))


def answer(found: Sequence[tuple[str, Difference, int]], axis: Axis, baseline: str, unit: str) -> Answer:
    """The sentences of a row, the highest difference first.

    Args:
        found: Method, its difference to the baseline, and how many of its runs diverged.
        axis: Of the differences.
        baseline: Its name.
        unit: Of the differences: points or BLEU.
    """
    ordered = sorted(found, key=lambda each: -each[1].mean)
    sentences = [
        Sentence(method, f"{_verdict(difference)} {baseline}", difference, f"{diverged} diverged" if diverged else "")
        for method, difference, diverged in ordered
    ]
    return Answer(_summary(sentences, baseline), sentences, axis, unit)


def what_was_run(records: Iterable[Record], running: int, failed: int = 0) -> list[str]:
    """How many runs, on what, with which code and when."""
    runs = {record.run_id: record for record in records}.values()
    diverged = sum(record.status == "diverged" for record in runs)
    counts = [f"{len(runs)} run{'s' * (len(runs) != 1)}" if runs else "no run has ended"]
    counts += [f"{diverged} of them diverged"] * bool(diverged)
    counts += [f"{failed} failed"] * bool(failed) + [f"{running} going on"] * bool(running)
    said = [", ".join(counts)]
    if not runs:
        return said
    devices = Counter(f"{record.devices} x {record.device}" if record.devices > 1 else record.device for record in runs)
    said.append(_listed(device for device, _ in devices.most_common()))
    said.append(f"torch {_listed(sorted({record.packages.get('torch', 'unknown') for record in runs}))}")
    commits = Counter(commit_label(record.git_commit, record.git_dirty) for record in runs)
    said.append(f"commit {_listed(commit for commit, _ in commits.most_common())}")
    days = sorted(datetime.fromisoformat(record.started).date() for record in runs)
    said.append(f"{days[0]}" if days[0] == days[-1] else f"{days[0]} to {days[-1]}")
    return said


def _listed(names: Iterable[str], most: int = 3) -> str:
    """``a, b, c and 4 more``."""
    found = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def _verdict(difference: Difference) -> str:
    return VERDICTS[difference.tone] if difference.n > 1 else ONE_SEED


def _summary(sentences: Sequence[Sentence], baseline: str) -> str:
    """``4 of 6 methods are better than SGDM, 1 is worse, 1 cannot be told from it.``"""
    if len(sentences) == 1:
        return f"{sentences[0].method} {sentences[0].verdict}."
    sides = Counter(sentence.difference.tone if sentence.difference.n > 1 else "lone" for sentence in sentences)
    better, worse, even, lone = (sides[side] for side in ("above", "below", "even", "lone"))
    said = [f"{better} of {len(sentences)} methods {'is' if better == 1 else 'are'} better than {baseline}"]
    said += [f"{worse} {'is' if worse == 1 else 'are'} worse"] * bool(worse)
    said += [f"{even} cannot be told from it"] * bool(even)
    said += [f"{lone} {'has' if lone == 1 else 'have'} one seed"] * bool(lone)
    return f"{', '.join(said)}."
