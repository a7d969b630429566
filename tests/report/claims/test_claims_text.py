from __future__ import annotations

import csv
import dataclasses
import io
import re

import pytest

from llqr_sam.report.claims.claims_text import caption, number, to_csv, to_markdown, verdict, write_claims
from llqr_sam.report.claims.evidence import Evidence, gather
from tests.report.claims.made_up import gather_at_paper

pytestmark = pytest.mark.slow  # evidence is gathered from hundreds of records

COLUMNS = (  # a contract: others read the file
    "claim,sentence,scale,table,dataset,arch,label_noise,measure,a,b,paper,difference,t_low,t_high,bootstrap_low,"
    "bootstrap_high,p,n,detectable,word,last_difference,last_t_low,last_t_high,last_word"
)


@pytest.fixture(scope="module")
def rows(evidence) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(evidence))))


def of(rows: list[dict[str, str]], **fields: str) -> list[dict[str, str]]:
    return [row for row in rows if fields.items() <= row.items()]


def test_columns_and_one_line_for_each_row_and_pool(rows):
    assert ",".join(rows[0]) == COLUMNS
    lines = of(rows, claim="llqr_sam_over_sam_ngd")
    assert [line["dataset"] for line in lines] == ["all", *["cifar100"] * 4]
    assert {line["a"] for line in lines} == {"llqr_sam-ngd"}
    assert len({tuple(row[key] for key in COLUMNS.split(",")[:8]) for row in rows}) == len(rows)


def test_the_word_is_that_of_the_printed_interval(rows):
    """Read from the file alone, so that a reader can check every word."""
    bounds = {"overhead": 1.25}
    judged = [row for row in rows if row["t_low"]]
    assert {row["word"] for row in judged} == {"supported", "contradicted", "undecided"}
    for row in judged:
        ratio = row["measure"] != "score"
        bound, low, high = bounds.get(row["claim"], float(ratio)), float(row["t_low"]), float(row["t_high"])
        below, above = high < bound, low > bound
        claimed, other = (below, above) if ratio else (above, below)
        assert row["word"] == ("supported" if claimed else "contradicted" if other else "undecided")
        assert low <= float(row["difference"]) <= high
    assert {row["word"] for row in rows if not row["t_low"]} == {"not run"}


def test_a_pooled_difference_is_the_mean_of_its_rows(rows):
    """Where all rows have the same seeds; so is the paper's."""
    pooled, *lines = of(rows, claim="llqr_over_sgdm_newton")
    assert pooled["word"] == "contradicted"
    for column in ("difference", "paper", "last_difference"):
        assert float(pooled[column]) == pytest.approx(sum(float(line[column]) for line in lines) / 4, abs=1e-4)


def test_nothing_is_invented(rows):
    """One seed: its difference, and neither interval nor p-value. No paper's number of flatness."""
    (probe,) = of(rows, claim="learned_probe")
    assert (probe["n"], probe["word"], probe["t_low"], probe["p"], probe["detectable"]) == ("1", "not run", "", "", "")
    assert {row["paper"] for row in rows if row["measure"] != "score"} == {""}
    assert {row["last_word"] for row in rows if row["measure"] != "score"} == {""}


def test_the_verdict_counts_the_claims_own_words(evidence, rows):
    """Counted again from the file: the first line of each claim has its word."""
    first = {row["claim"]: row["word"] for row in reversed(rows)}
    words = list(first.values())
    (sentence,) = re.findall(r"Of (\d+) claims tested at the paper's scale, (.*)\.$", verdict(evidence))
    assert int(sentence[0]) == len(words) - words.count("not run")
    assert f"{words.count('supported')} are supported" in sentence[1]
    assert f"{words.count('contradicted')} contradicted and {words.count('undecided')} undecided" in sentence[1]
    assert f"(n = 3 to 5 seeds); {words.count('not run')} further claims have not been run" in sentence[1]


def test_without_runs_nothing_is_said_of_a_claim(tmp_path):
    empty = gather(["7"], [f"paths.results={tmp_path}"])
    assert verdict(empty).startswith("No claim has been tested")
    text = to_markdown(empty)
    assert "0 lines have an interval" in text
    assert "| --- |" not in text
    assert "`python train.py table=7`: Transport matters" in text


def test_markdown(evidence):
    text = to_markdown(evidence)
    assert text.splitlines()[2] == verdict(evidence)
    assert re.search(
        r"\| LLQR\+SAM \(NGD\) tests better than SAM\. \| all 4 rows \| \+\d\.\d\d \[\+\d\.\d\d, \+\d\.\d\d\] \|", text
    )
    assert re.search(r"\|  \| CIFAR-100, ResNet-18, noise 0\.8 \|", text)
    assert "| top eigenvalue: all 4 rows | 0." in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {11}


def test_the_caption_says_how_many_lines_are_not_corrected_for(evidence, rows):
    judged = sum(row["word"] != "not run" for row in rows)
    assert f"{judged} lines have an interval; their number is not corrected for." in caption(evidence)


def test_what_does_not_count_is_listed(evidence):
    broken: Evidence = dataclasses.replace(evidence, problems=("record not counted: a.json: broken",))
    assert "- record not counted: a.json: broken" in to_markdown(broken)


def test_numbers(evidence):
    claims = {finding.claim.kind: finding.claim for finding in evidence.findings}
    assert [number(claims["difference"], value) for value in (0.126, -0.001, None)] == ["+0.13", "+0.00", ""]
    assert [number(claims["ratio"], value) for value in (0.0, -4.0)] == ["1.00", "0.018"]


def test_equal_records_give_equal_bytes(evidence, made_up, tmp_path):
    first = [path.read_bytes() for path in write_claims(evidence, tmp_path / "tables" / "claims")]
    again = gather_at_paper(["2", "7", "8"], [f"paths.results={made_up}"])
    paths = write_claims(again, tmp_path / "tables" / "claims")
    assert [path.name for path in paths] == ["claims.md", "claims.csv"]
    assert [path.read_bytes() for path in paths] == first
