from __future__ import annotations

import math

import pytest

from llqr_sam.report.claims.claim import FILE, read_claims
from llqr_sam.report.tables.accuracy_table import read_accuracy
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.command_line import groups
from llqr_sam.suite.config.errors import MISTAKES
from tests.suite.plans import plan_of

CLAIMS = read_claims()


def test_every_claim_has_a_name_and_a_sentence_of_its_own():
    for texts in ([claim.name for claim in CLAIMS.claims], [claim.sentence for claim in CLAIMS.claims]):
        assert len(set(texts)) == len(texts)
    assert all(claim.sentence.endswith(".") for claim in CLAIMS.claims)


@pytest.mark.parametrize("claim", CLAIMS.claims, ids=lambda claim: claim.name)
def test_every_table_of_a_claim_has_both_of_its_methods_and_its_score(claim):
    """So that a claim does not look at a table in vain, and no claim pools points with BLEU."""
    for number in claim.tables:
        methods = {(run.cell.method, run.cell.geometry) for run in plan_of(f"table={number}")}
        assert {(claim.a.optim, claim.a.geometry), (claim.b.optim, claim.b.geometry)} <= methods
        assert Command.of(f"table={number}").table.metric == claim.metric


@pytest.mark.parametrize("claim", [c for c in CLAIMS.claims if not c.is_ratio], ids=lambda claim: claim.name)
def test_the_papers_own_numbers_point_the_claimed_way_in_most_rows(claim):
    """A claim whose sign or methods were the wrong way round would not."""
    paper = {number: {} for number in claim.tables}
    for (number, cell), value in read_accuracy().items():
        if number in paper:
            row = paper[number].setdefault((cell.dataset, cell.arch, cell.label_noise), {})
            row[cell.method, cell.geometry] = value.mean
    a, b = ((method.optim, method.geometry) for method in (claim.a, claim.b))
    differences = [row[a] - row[b] for rows in paper.values() for row in rows.values()]
    assert sum(claim.sign * difference > 0 for difference in differences) > len(differences) / 2


def test_tables_of_a_scale_exist():
    assert {number for scale in CLAIMS.scales for number in scale.tables} <= set(groups()["table"])


def test_a_ratio_is_judged_by_its_logarithm():
    ratio = next(claim for claim in CLAIMS.claims if claim.name == "overhead")
    assert ratio.threshold == pytest.approx(math.log(1.25))
    assert ratio.shown(ratio.threshold) == pytest.approx(1.25)
    difference = CLAIMS.claims[0]
    assert (difference.threshold, difference.shown(0.3)) == (0.0, 0.3)
    assert (ratio.versus, difference.versus) == ("LLQR+SAM (NGD) / SAM", "LLQR+SAM (NGD) - SAM")


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("kind", "quotient", "quotient is not possible. Choose from: difference, growth, ratio"),
        ("sign", "0", "must be 1 or -1"),
        ("measures", "[seconds]", "must be of: score"),
        ("metric", "f1", "Choose from: top1, val_bleu"),
        ("table", "2", "table"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, key, value, problem):
    text = FILE.read_text()
    first = "  - name: llqr_sam_over_sam_ngd\n"
    assert text.count(first) == 1
    file = tmp_path / "claims.yaml"
    file.write_text(text.replace(first, f"{first}    {key}: {value}\n"))
    with pytest.raises(MISTAKES, match=problem):
        read_claims(file)
