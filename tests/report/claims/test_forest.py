from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import combinations

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from llqr_sam.report.claims import forest
from llqr_sam.report.claims.claims_text import number
from llqr_sam.report.claims.evidence import Evidence, gather
from llqr_sam.report.claims.forest import STYLES, draw_claims
from llqr_sam.report.figures.drawing import NoRecords


@pytest.fixture
def figure_of(tmp_path, monkeypatch) -> Callable[[Evidence], Figure]:
    """Draws a figure and does not write it."""
    kept: list[Figure] = []
    monkeypatch.setattr(forest, "write_figure", lambda figure, path: kept.append(figure) or path)

    def draw(evidence: Evidence) -> Figure:
        draw_claims(evidence, tmp_path / "claims.png")
        kept[-1].draw_without_rendering()
        return kept[-1]

    return draw


@pytest.fixture
def drawn(evidence, figure_of) -> Figure:
    """The figure of the made-up records."""
    return figure_of(evidence)


def test_draws_with_equal_bytes(evidence, tmp_path):
    first, second = (draw_claims(evidence, tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    height, width, _ = matplotlib.image.imread(tmp_path / "a.png").shape
    assert width == 832
    assert height > 1000


@pytest.mark.parametrize("scale", ["", "reduced scale: ResNet-18 at width 16, 2,500 images, a schedule of 30 epochs"])
def test_nothing_overlaps_and_nothing_is_cut_off(figure_of, evidence, scale):
    """No text lies over another or outside the picture."""
    drawn = figure_of(dataclasses.replace(evidence, details={"paper": scale}))
    assert f"at {scale or evidence.scales[0].title}" in [text.get_text() for text in drawn.texts]
    texts = [*drawn.texts, *(text for axes in drawn.axes for text in axes.texts)]
    texts += [label for axes in drawn.axes for label in (*axes.get_xticklabels(), axes.xaxis.label)]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    page = drawn.bbox
    assert len(boxes) > 100
    for box in boxes:
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]


def test_every_tested_claim_is_drawn_with_its_word_and_no_other(drawn, evidence):
    texts = [text.get_text() for axes in drawn.axes for text in axes.texts]
    tested = [finding for finding in evidence.findings if finding.headline.word != "not run"]
    assert 0 < len(tested) < len(evidence.findings)
    for finding in evidence.findings:
        assert (finding.claim.sentence.rstrip(".") in texts) == (finding in tested)
    for finding in tested:
        place = texts.index(finding.claim.sentence.rstrip("."))
        word, _, value, count = texts[place + 1 : place + 5]
        assert (word, count) == (finding.headline.word, f"n = {finding.headline.n}")
        assert value == number(finding.claim, finding.headline.effect.best.mean)


def test_words_differ_in_marker_and_colour():
    """The markers are what grey print keeps."""
    for kept in zip(*STYLES.values(), strict=True):
        assert len(set(kept)) == len(STYLES) == 3


def test_ratios_have_a_logarithmic_panel_of_their_own(drawn):
    assert [axes.get_xscale() for axes in drawn.axes] == ["linear", "linear", "log"]
    low, high = drawn.axes[2].get_xlim()
    assert 0 < low < 1 < 1.25 < high


def test_a_wide_interval_is_cut_and_marked(evidence, figure_of):
    """The widest of many intervals does not squeeze the others."""
    first = evidence.findings[0]
    best = dataclasses.replace(first.lines[0].effect.best, by_seed={0: 0.1, 1: 40.0, 2: -39.0})
    line = dataclasses.replace(first.lines[0], effect=dataclasses.replace(first.lines[0].effect, best=best))
    findings = (dataclasses.replace(first, lines=(line, *first.lines[1:])), *evidence.findings[1:])
    axes = figure_of(dataclasses.replace(evidence, findings=findings)).axes[0]
    low, high = axes.get_xlim()
    assert high - low < 20  # of an interval of nearly 200 points
    arrows = {line.get_marker() for line in axes.lines}
    assert {"<", ">"} <= arrows


def test_nothing_run_is_no_picture(tmp_path):
    empty: Evidence = gather(["7"], [f"paths.results={tmp_path}"])
    with pytest.raises(NoRecords, match="python train.py table="):
        draw_claims(empty, tmp_path / "claims.png")
    assert not (tmp_path / "claims.png").exists()


def test_the_picture_is_not_blank(evidence, tmp_path):
    assert np.std(matplotlib.image.imread(draw_claims(evidence, tmp_path / "a.png"))) > 0.05
