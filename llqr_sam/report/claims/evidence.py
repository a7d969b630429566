"""Holds each claim against the run records: its effect in each row of its tables, and the word that follows.

The word depends on Student's 95 % interval of the mean effect alone: supported where the whole interval lies on the
claimed side of the bound, contradicted where it lies on the other, else undecided. With fewer than two seeds there is
no interval, and the word is "not run".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from llqr_sam.report.claims.claim import SCORE, SECONDS, Claim, Scale, read_claims
from llqr_sam.report.claims.effect import Effect, Pair, PaperValues, mean_effect
from llqr_sam.report.tables.accuracy_table import AccuracyTable, collect, read_accuracy
from llqr_sam.report.tables.seed_statistics import Sample
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import MISTAKES, UsageError, passed_over
from llqr_sam.suite.status.status import Status

Word = Literal["supported", "contradicted", "undecided", "not run"]


@dataclass(frozen=True)
class Line:
    """The effect of a claim in one row of a table, or the mean over several rows."""

    claim: Claim
    measure: str
    effect: Effect
    tables: tuple[str, ...]
    commands: tuple[str, ...]  # that train its runs
    dataset: str
    arch: str = ""
    label_noise: str = ""  # 0.6, or 0.2 to 0.8
    pooled: int = 0  # rows that a pooled line is over
    rows: int = 0  # rows that it could be over; 0: it is not a pooled line

    @property
    def n(self) -> int:
        """Seeds."""
        return len(self.effect.best.values)

    @property
    def word(self) -> Word:
        """What the effect says of the claim."""
        return word_of(self.claim, self.effect.best)

    @property
    def last_word(self) -> Word | None:
        """The same of the last epoch; ``None`` where the effect is not of scores."""
        return word_of(self.claim, self.effect.last) if self.measure == SCORE else None

    @property
    def p(self) -> float | None:
        """Two-sided p-value of the effect lying at the claim's bound, over flips of the seeds' signs."""
        return self.effect.best.map(lambda value: value - self.claim.threshold).sign_flip_p()

    @property
    def detectable(self) -> float | None:
        """The true effect that would be called supported in 80 % of cases, at this n and standard deviation."""
        least = self.effect.best.detectable()
        return None if least is None else self.claim.threshold + self.claim.sign * least


@dataclass(frozen=True)
class Finding:
    """A claim at a scale that has rows for it."""

    claim: Claim
    scale: Scale
    pooled: tuple[Line, ...]  # one for each measure of which several rows were run
    lines: tuple[Line, ...]  # measure by measure, row by row

    @property
    def summaries(self) -> tuple[Line, ...]:
        """The line of each measure that speaks for it: the pooled one, or that of the only row that was run."""
        return tuple(self._summary(measure) for measure in self.claim.measures)

    def _summary(self, measure: str) -> Line:
        lines = [line for line in (*self.pooled, *self.lines) if line.measure == measure]
        return next((line for line in lines if line.word != "not run"), lines[0])

    @property
    def headline(self) -> Line:
        """The line whose word is the claim's."""
        return self.summaries[0]

    @property
    def all_lines(self) -> tuple[Line, ...]:
        """The headline, the summaries of further measures, and the other rows."""
        summaries = self.summaries
        return (*summaries, *(line for line in self.lines if line not in summaries))


@dataclass(frozen=True)
class Evidence:
    """What the records say of the claims."""

    scales: tuple[Scale, ...]  # those at which a claim was tested first
    findings: tuple[Finding, ...]
    details: Mapping[str, str]  # scale -> what its configuration says of it; empty where it says nothing
    problems: tuple[str, ...]  # a line for each record or table that does not count

    def at(self, scale: Scale) -> tuple[Finding, ...]:
        """The findings of a scale."""
        return tuple(finding for finding in self.findings if finding.scale == scale)

    @property
    def judged(self) -> tuple[Line, ...]:
        """The lines with an interval."""
        return tuple(line for finding in self.findings for line in finding.all_lines if line.word != "not run")


def word_of(claim: Claim, effect: Sample) -> Word:
    """What an effect says of a claim, by its t interval alone."""
    interval = effect.t_interval()
    if interval is None:
        return "not run"
    beyond = {1: interval.low > claim.threshold, -1: interval.high < claim.threshold}  # on either side of the bound
    if beyond[claim.sign]:
        return "supported"
    return "contradicted" if beyond[-claim.sign] else "undecided"


Read = Callable[[Command], tuple[Status, AccuracyTable]]


def gather(numbers: Sequence[str], words: Sequence[str] = (), read: Read = collect) -> Evidence:
    """Read the records of the claims' tables, at every scale that has them.

    A table that cannot take the words, or whose records are of different data, is named in ``problems``.

    Args:
        numbers: The tables that may be read.
        words: What the runs were started with. ``scale=`` does not count: all scales are shown.
        read: Reads the records of a table.

    Raises:
        UsageError: The words name a table. A word that is none is an error of ``MISTAKES``.
    """
    words = [word for word in words if not word.startswith("scale=")]
    config = Command.of(*words).config
    if config.table is not None:
        raise UsageError(f"table={config.table.number} has no use here: the claims name their tables.")
    asked, paper = read_claims(), read_accuracy()
    own = dict.fromkeys(number for claim in asked.claims for number in claim.tables)
    findings: list[Finding] = []
    problems: list[str] = []
    for scale in asked.scales:
        asked_for = [number for number in scale.tables or own if number in numbers]
        tables = {n: table for n in asked_for if (table := _table(n, scale, words, read, problems))}
        findings += (finding for claim in asked.claims if (finding := find(claim, scale, tables, paper)))
    tested = {finding.scale.name for finding in findings if finding.headline.word != "not run"}
    scales = sorted(asked.scales, key=lambda scale: scale.name not in tested)
    details = {scale.name: _detail(scale) for scale in scales}
    return Evidence(tuple(scales), tuple(findings), details, tuple(dict.fromkeys(problems)))


def _table(number: str, scale: Scale, words: Sequence[str], read: Read, problems: list[str]) -> AccuracyTable | None:
    """A table at a scale. ``None`` if the scale has no such table, or if it cannot be read, which is a problem."""
    own = [f"table={number}", *scale.words]
    command = Command.of(*own, *words)
    if not _composes(command):
        return None
    try:
        status, table = read(command)
    except MISTAKES as mistake:
        problems.append(passed_over(" ".join(own), mistake))
        return None
    problems += status.damaged
    return table


def _composes(command: Command) -> bool:
    try:
        return command.config.table is not None
    except MISTAKES:
        return False


def _detail(scale: Scale) -> str:
    """What the configuration says of a scale; empty where it says nothing."""
    try:
        return str(Command.of(*scale.words).value("scale.title") or "") if scale.words else ""
    except MISTAKES:
        return ""


def find(claim: Claim, scale: Scale, tables: Mapping[str, AccuracyTable], paper: PaperValues) -> Finding | None:
    """A claim in those of a scale's tables, by number, that are its own; ``None`` if none has a row for it.

    A row that several of these tables have (Table 4 repeats rows of Tables 1 and 2) is the first one's.
    """
    own = {number: tables[number] for number in scale.tables or claim.tables if number in tables}
    rows: dict[tuple[str, ...], Line] = {}
    for line in (line for number, table in own.items() for line in _lines(claim, number, table, paper)):
        rows.setdefault((line.measure, line.dataset, line.arch, line.label_noise), line)
    lines = list(rows.values())
    if not lines:
        return None
    by_measure = [[line for line in lines if line.measure == measure] for measure in claim.measures]
    pooled = tuple(pool(group) for group in by_measure if sum(line.word != "not run" for line in group) > 1)
    return Finding(claim, scale, pooled, tuple(line for group in by_measure for line in group))


def _lines(claim: Claim, number: str, table: AccuracyTable, paper: PaperValues) -> Iterator[Line]:
    """The lines of a table's rows that have both methods, if its scores are the claim's."""
    pairs = [pair for row in table.rows if (pair := Pair.of(claim, row))] if table.config.metric == claim.metric else []
    flatness = set(claim.measures) - {SCORE, SECONDS}
    command = f"{table.command} sharpness=true" if flatness else table.command

    def line(measure: str, pair: Pair, effect: Effect, noise: str = "") -> Line:
        cell = pair.cell
        noise = noise or f"{cell.label_noise:g}"
        return Line(claim, measure, effect, (number,), (command,), cell.dataset, cell.arch, noise)

    if claim.kind == "growth":
        for _, group in groupby(pairs, key=lambda pair: (pair.cell.dataset, pair.cell.arch)):
            levels = sorted(group, key=lambda pair: pair.cell.label_noise)
            low, high = levels[0], levels[-1]
            if low.cell.label_noise < high.cell.label_noise:
                growth = high.difference(claim.tables, paper).minus(low.difference(claim.tables, paper))
                yield line(SCORE, low, growth, f"{low.cell.label_noise:g} to {high.cell.label_noise:g}")
    elif claim.is_ratio:
        yield from (line(measure, pair, pair.ratio(measure)) for pair in pairs for measure in claim.measures)
    else:
        yield from (line(SCORE, pair, pair.difference(claim.tables, paper)) for pair in pairs)


def pool(lines: Sequence[Line]) -> Line:
    """The mean over the rows with at least two seeds, at the seeds that all of these have."""
    first, run = lines[0], [line for line in lines if line.word != "not run"]
    return Line(
        claim=first.claim,
        measure=first.measure,
        effect=mean_effect([line.effect for line in run]),
        tables=tuple(dict.fromkeys(number for line in lines for number in line.tables)),
        commands=tuple(dict.fromkeys(command for line in lines for command in line.commands)),
        dataset="all",
        pooled=len(run),
        rows=len(lines),
    )
