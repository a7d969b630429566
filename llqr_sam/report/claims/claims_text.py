"""The claims as a reader sees them: sentences, a Markdown table for each scale, and CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llqr_sam.engine.records.atomic import replacing
from llqr_sam.report.claims.claim import MEASURES, SCORE, Claim, Scale, column
from llqr_sam.report.claims.evidence import Evidence, Finding, Line
from llqr_sam.report.tables.labels import arch_label, dataset_label
from llqr_sam.report.tables.printed_table import csv_text, markdown_rows
from llqr_sam.report.tables.seed_statistics import Interval

TITLE = "The paper's claims"
HEADS = ("Claim", "Where", "Ours [95 % t interval]", "Bootstrap", "p", "n", "Detectable", "Paper", "Best", "Last epoch")


@dataclass(frozen=True)
class PrintedLine:
    """A line as text; empty where there is nothing to say."""

    where: str  # table, data set, network and label noise, or how many rows
    ours: str
    interval: str
    bootstrap: str
    p: str
    n: str
    detectable: str
    paper: str
    word: str
    last_word: str


def print_line(line: Line) -> PrintedLine:
    """The numbers of a line."""
    claim, effect = line.claim, line.effect.best
    return PrintedLine(
        where=where(line),
        ours=number(claim, effect.mean),
        interval=_ends(claim, effect.t_interval()),
        bootstrap=_ends(claim, effect.bootstrap_interval()),
        p="" if line.p is None else _p_text(line.p),
        n=str(line.n) + (f" ({line.effect.unusable} unusable)" if line.effect.unusable else ""),
        detectable=number(claim, line.detectable),
        paper=number(claim, line.effect.paper),
        word=line.word,
        last_word=line.last_word or "",
    )


def where(line: Line) -> str:
    """``CIFAR-100, ResNet-18, noise 0.6``, or ``3 of 4 rows``; further measures of a ratio are named."""
    if line.rows:
        place = f"all {line.rows} rows" if line.pooled == line.rows else f"{line.pooled} of {line.rows} rows"
    else:
        noise = "" if line.label_noise in ("", "0") else f", noise {line.label_noise}"
        place = f"{dataset_label(line.dataset)}, {arch_label(line.arch)}{noise}"
    return place if line.measure == SCORE else f"{MEASURES[line.measure]}: {place}"


def number(claim: Claim, value: float | None) -> str:
    """An effect: a signed difference, or a ratio."""
    if value is None:
        return ""
    if claim.is_ratio:
        ratio = claim.shown(value)
        return f"{ratio:.2f}" if 0.1 <= ratio < 100 else f"{ratio:.2g}"
    return f"{round(value, 2) + 0.0:+.2f}"  # no -0.00


def _ends(claim: Claim, interval: Interval | None) -> str:
    return f"[{number(claim, interval.low)}, {number(claim, interval.high)}]" if interval else ""


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(evidence: Evidence) -> str:
    """What came of the claims, a sentence for each scale at which one was tested."""
    sentences = [sentence for scale in evidence.scales if (sentence := scale_verdict(evidence, scale))]
    return (
        " ".join(sentences) or "No claim has been tested: no two methods of a claim have two finished seeds in common."
    )


def scale_verdict(evidence: Evidence, scale: Scale) -> str:
    """``Of 14 claims at reduced scale 6 are supported, ...``; empty where none was tested."""
    findings = evidence.at(scale)
    tested = [finding.headline for finding in findings if finding.headline.word != "not run"]
    if not tested:
        return ""
    words = Counter(line.word for line in tested)
    seeds = [line.n for line in tested]
    n = f"{min(seeds)}" if len(set(seeds)) == 1 else f"{min(seeds)} to {max(seeds)}"
    rest = len(findings) - len(tested)
    lacking = f"; {rest} further {'claim has' if rest == 1 else 'claims have'} not been run" if rest else ""
    claims = f"{len(tested)} {'claim' if len(tested) == 1 else 'claims'} tested at {scale.title}"
    supported = f"{words['supported']} {'is' if words['supported'] == 1 else 'are'} supported"
    others = f"{words['contradicted']} contradicted and {words['undecided']} undecided"
    return f"Of {claims}, {supported}, {others} (n = {n} seeds){lacking}."


def caption(evidence: Evidence) -> str:
    """How the lines are to be read."""
    lines = len(evidence.judged)
    said = [
        "Each line compares two methods seed by seed, over the seeds that both have finished: the mean",
        "difference of their test scores in points, or the ratio of two measurements.",
        "The word depends on Student's 95 % interval alone: supported where all of it lies on the claimed",
        "side of 0 (of a ratio: of 1, or of the bound in the claim), contradicted where all of it lies on the",
        "other side, else undecided.",
        "A claim of several rows has the word of their pooled line: the mean over the rows with two seeds or",
        "more, at the seeds that all of these have.",
        "Of flatness the Hessian's top eigenvalue decides.",
        '"Best": by the best test score over training, which the paper prints; "last epoch": by the last one.',
        '"Bootstrap": 95 % percentile interval, too narrow for few seeds.',
        '"p": two-sided, over flips of the signs of the seeds.',
        '"Detectable": the true effect that this n and standard deviation would find in 80 % of cases.',
        '"Paper": the difference of the values that arXiv 2605.16134 prints for the same row, where it prints',
        "them.",
        f"{lines} line{' has' if lines == 1 else 's have'} an interval; their number is not corrected for.",
    ]
    return " ".join(said)


def to_markdown(evidence: Evidence) -> str:
    """The verdict, the caption, and a table for each scale with its claims and their rows."""
    lines = [f"# {TITLE}", "", verdict(evidence), "", caption(evidence), ""]
    for scale in evidence.scales:
        if findings := evidence.at(scale):
            lines += [f"## At {scale.title}", "", *_detail(evidence, scale), *_scale(findings)]
    if evidence.problems:
        lines += ["## What was not counted", "", *(f"- {problem}" for problem in evidence.problems), ""]
    return "\n".join(lines)


def _detail(evidence: Evidence, scale: Scale) -> list[str]:
    detail = evidence.details.get(scale.name)
    return [f"{detail[0].upper()}{detail[1:]}.", ""] if detail else []


def _scale(findings: Sequence[Finding]) -> Iterator[str]:
    run = [row for finding in findings for row in _markdown(finding)]
    if run:
        yield from markdown_rows(HEADS, run)
        yield ""
    if lacking := not_run(findings):
        yield from ("Not run, or by fewer than two seeds:", "")
        yield from (f"- `{command}`: {' '.join(sentences)}" for command, sentences in lacking.items())
        yield ""


def not_run(findings: Sequence[Finding]) -> dict[str, list[str]]:
    """Command -> the claims that wait for it."""
    lacking: dict[str, list[str]] = {}
    for finding in findings:
        for line in finding.lines:
            if line.word == "not run":
                sentences = lacking.setdefault(line.commands[0], [])
                sentences += [finding.claim.sentence] * (finding.claim.sentence not in sentences)
    return lacking


def _markdown(finding: Finding) -> Iterator[list[str]]:
    """The headline with the claim's sentence and its word in bold, then the other lines; only lines that were run."""
    for line in finding.all_lines:
        if line.word == "not run":
            continue
        printed, first = print_line(line), line is finding.headline
        yield [
            finding.claim.sentence if first else "",
            printed.where,
            f"{printed.ours} {printed.interval}",
            *(printed.bootstrap, printed.p, printed.n, printed.detectable, printed.paper),
            f"**{printed.word}**" if first else printed.word,
            printed.last_word,
        ]


def to_csv(evidence: Evidence) -> str:
    """One line for each claim, scale and row, and each pooled line (data set ``all``)."""
    return csv_text([_csv_row(finding, line) for finding in evidence.findings for line in finding.all_lines])


def _csv_row(finding: Finding, line: Line) -> dict[str, object]:
    claim, effect = finding.claim, line.effect

    def ends(name: str, interval: Interval | None) -> dict[str, str]:
        low, high = interval or (None, None)
        return {f"{name}_low": _exact(claim, low), f"{name}_high": _exact(claim, high)}

    return {
        "claim": claim.name,
        "sentence": claim.sentence,
        "scale": finding.scale.name,
        "table": " ".join(line.tables),
        "dataset": line.dataset,
        "arch": line.arch,
        "label_noise": line.label_noise,
        "measure": line.measure,
        "a": column(claim.a).label,
        "b": column(claim.b).label,
        "paper": _exact(claim, effect.paper),
        "difference": _exact(claim, effect.best.mean),  # of a ratio: the ratio of the geometric means
        **ends("t", effect.best.t_interval()),
        **ends("bootstrap", effect.best.bootstrap_interval()),
        "p": "" if line.p is None else f"{line.p:.6f}",
        "n": line.n,
        "detectable": _exact(claim, line.detectable),
        "word": line.word,
        "last_difference": _exact(claim, effect.last.mean),
        **ends("last_t", effect.last.t_interval()),
        "last_word": line.last_word or "",
    }


def _exact(claim: Claim, value: float | None) -> str:
    return "" if value is None else f"{round(claim.shown(value), 4) + 0.0:.4f}"


def write_claims(evidence: Evidence, output: Path) -> list[Path]:
    """Write ``output`` with the suffixes .md and .csv, atomically; returns the paths."""
    paths = []
    for suffix, text in (("md", to_markdown(evidence)), ("csv", to_csv(evidence))):
        paths.append(output.with_name(f"{output.name}.{suffix}"))
        with replacing(paths[-1]) as file:
            file.write(text.encode())
    return paths
