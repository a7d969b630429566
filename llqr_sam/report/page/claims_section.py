"""The claims as the first section of the page: at each scale a list of sentences, each with its word and its lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llqr_sam.report.claims.claims_text import PrintedLine, caption, not_run, print_line, scale_verdict
from llqr_sam.report.claims.evidence import Evidence

SYMBOLS = {"supported": "●", "contradicted": "■", "undecided": "▲"}  # the markers of the forest plot
TONES = {"supported": "above", "contradicted": "below", "undecided": "even"}


@dataclass(frozen=True)
class Badge:
    """A word with its symbol; ``tone`` names its colour in the style sheet."""

    word: str
    symbol: str
    tone: str


@dataclass(frozen=True)
class PrintedClaim:
    """A claim that was tested."""

    sentence: str
    versus: str
    badge: Badge
    headline: PrintedLine
    lines: Sequence[PrintedLine]  # the headline and the others that were run


@dataclass(frozen=True)
class PrintedScale:
    """The claims at a scale."""

    title: str
    verdict: str
    claims: Sequence[PrintedClaim]
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
    """What the records say of the claims, as text."""
    scales = []
    for scale in evidence.scales:
        findings, claims = evidence.at(scale), []
        for finding in findings:
            lines = [print_line(line) for line in finding.all_lines if line.word != "not run"]
            if lines:
                word, claim = finding.headline.word, finding.claim
                badge = Badge(word, SYMBOLS.get(word, ""), TONES.get(word, ""))
                claims.append(PrintedClaim(claim.sentence, claim.versus, badge, print_line(finding.headline), lines))
        if findings:
            title = evidence.details.get(scale.name) or scale.title
            scales.append(PrintedScale(title, scale_verdict(evidence, scale), claims, not_run(findings)))
    tested = sum(finding.headline.word != "not run" for finding in evidence.findings)
    return ClaimsSection(caption(evidence), scales, tested, len(evidence.findings), evidence.problems)
