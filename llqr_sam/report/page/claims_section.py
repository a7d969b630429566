"""The claims on the page: at each scale a list of sentences, each with its word, its plot and its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llqr_sam.report.claims.claim import FAMILIES
from llqr_sam.report.claims.claims_text import PrintedLine, caption, not_run, print_line, scale_verdict
from llqr_sam.report.claims.evidence import Evidence, Finding, Line
from llqr_sam.report.page.track import Axis, Effect, Track

SYMBOLS = {"supported": "●", "contradicted": "■", "undecided": "▲"}  # the markers of the forest plot
TONES = {"supported": "above", "contradicted": "below", "undecided": "even"}


@dataclass(frozen=True)
class Badge:
    """A word with its symbol; ``tone`` names its colour in the style sheet."""

    word: str
    symbol: str
    tone: str


@dataclass(frozen=True)
class ClaimLine:
    """A line of a claim as text and as a plot."""

    text: PrintedLine
    badge: Badge
    track: Track | None


@dataclass(frozen=True)
class PrintedClaim:
    """A claim that was tested."""

    sentence: str
    versus: str
    headline: ClaimLine
    lines: Sequence[ClaimLine]  # the headline and the others that were run


@dataclass(frozen=True)
class Family:
    """Claims on one axis."""

    title: str
    axis: Axis
    claims: Sequence[PrintedClaim]


@dataclass(frozen=True)
class PrintedScale:
    """The claims at a scale."""

    title: str
    verdict: str
    families: Sequence[Family]
    lacking: Mapping[str, Sequence[str]]  # command -> the claims that wait for it


@dataclass(frozen=True)
class ClaimsSection:
    """The section, ready to be written."""

    caption: str
    scales: Sequence[PrintedScale]
    tested: int  # claims, each counted at each scale
    asked: int
    problems: Sequence[str]


def claims_section(evidence: Evidence) -> ClaimsSection:
    """What the records say of the claims."""
    scales = []
    for scale in evidence.scales:
        if findings := evidence.at(scale):
            title = evidence.details.get(scale.name) or scale.title
            families = list(_families(findings))
            scales.append(PrintedScale(title, scale_verdict(evidence, scale), families, not_run(findings)))
    tested = sum(finding.headline.word != "not run" for finding in evidence.findings)
    return ClaimsSection(caption(evidence), scales, tested, len(evidence.findings), evidence.problems)


def _families(findings: Sequence[Finding]) -> Iterator[Family]:
    for title in FAMILIES:
        tested = [each for each in findings if each.claim.family == title and each.headline.word != "not run"]
        if tested:
            effects = [_effect(line) for finding in tested for line in _run(finding)]
            axis = Axis.over(effects, ratios=title == FAMILIES[-1])
            yield Family(title, axis, [_claim(finding, axis) for finding in tested])


def _claim(finding: Finding, axis: Axis) -> PrintedClaim:
    lines = [_line(line, axis) for line in _run(finding)]
    return PrintedClaim(finding.claim.sentence, finding.claim.versus, lines[0], lines)


def _run(finding: Finding) -> list[Line]:
    """The headline and the other lines that were run."""
    return [line for line in finding.all_lines if line.word != "not run"]


def _line(line: Line, axis: Axis) -> ClaimLine:
    badge = Badge(line.word, SYMBOLS[line.word], TONES[line.word])
    return ClaimLine(print_line(line), badge, axis.track(_effect(line), badge.tone))


def _effect(line: Line) -> Effect:
    return Effect(line.effect.best, line.effect.paper, line.claim.threshold)
