"""Who wins, by how much, how sure."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from llqr_sam.report.page.answer import Found, answer, answer_of, what_was_run
from llqr_sam.report.page.section import Answer
from llqr_sam.report.tables.accuracy_table import collect
from llqr_sam.report.tables.seed_statistics import Sample, mean_of
from llqr_sam.suite.config.command import Command
from tests.report.claims.made_up import write_table
from tests.suite.plans import plan_of
from tests.suite.records import record_of


def sample(*values: float) -> Sample:
    return Sample(dict(enumerate(values)))


def test_a_sentence_for_each_method_the_highest_difference_first():
    found = answer(
        [
            Found("LLQR", sample(-0.4, 0.4, 0.1)),
            Found("SAM", sample(2.0, 2.1, 2.2)),
            Found("Adam", sample(-3.0, -3.1, -3.2)),
            Found("F-SAM", sample(5.0)),
            Found("ASAM", sample()),
        ],
        "SGDM",
    )
    assert found is not None
    assert [(each.method, each.verdict) for each in found.sentences] == [
        ("F-SAM", "has one seed, too few to be compared with SGDM"),
        ("SAM", "is better than SGDM"),
        ("LLQR", "cannot be told from SGDM"),
        ("Adam", "is worse than SGDM"),
    ]
    assert found.sentences[1].difference.interval == "[+1.85, +2.35]"  # 2.1 -+ 4.303 x 0.1 / sqrt(3)
    assert found.summary == "1 of 4 methods is better than SGDM, 1 is worse, 2 cannot be told from it."


def test_nothing_to_compare_has_no_answer():
    assert answer([Found("SAM", sample())], "SGDM") is None


def table_8(results: Path) -> Answer:
    """SAM and LLQR+SAM against SGDM at four levels of noise."""
    write_table(results, "table=8", gains={"sgdm": 0.0, "sam": 2.0, "llqr_sam-ngd": 4.0}, seeds=range(3))
    _, table = collect(Command.of("table=8", f"paths.results={results}"))
    found = answer_of(table, "SGDM")
    assert found is not None
    return found


def test_over_several_rows_the_difference_is_their_mean_and_each_row_is_named(tmp_path):
    found = table_8(tmp_path)
    assert [each.method for each in found.sentences] == ["LLQR+SAM (NGD)", "SAM"]
    _, table = collect(Command.of("table=8", f"paths.results={tmp_path}"))
    sam = [row[3].difference("best") for row in table.rows]
    assert found.sentences[1].difference.text == f"{mean_of(sam).mean:+.2f}"
    places = found.sentences[1].places
    assert [place for place, _ in places] == ["noise 0.2", "noise 0.6", "noise 0.7", "noise 0.8"]
    assert [each.text for _, each in places] == [f"{row.mean:+.2f}" for row in sam]


def test_a_row_with_a_single_seed_does_not_thin_out_the_others(tmp_path):
    """Pooled are the rows with two seeds or more; the others are named."""
    write_table(tmp_path, "table=8", gains={"sgdm": 0.0, "sam": 2.0}, seeds=[0], noises=[0.8])
    write_table(tmp_path, "table=8", gains={"sgdm": 0.0, "sam": 2.0}, seeds=range(3), noises=[0.2, 0.6])
    _, table = collect(Command.of("table=8", f"paths.results={tmp_path}"))
    (sentence,) = answer_of(table, "SGDM").sentences
    assert sentence.difference.n == 3
    assert [each.n for _, each in sentence.places] == [3, 3, 1]


def test_what_was_run():
    first, second = plan_of("table=demo", "table.seeds=[0]")[:2]
    one = dataclasses.replace(record_of(first, [90.0]), git_commit="a" * 40, device="NVIDIA H200")
    two = dataclasses.replace(
        record_of(second, [1.0], status="diverged"), git_commit="b" * 40, git_dirty=True, started="2026-02-03T00:00:00"
    )
    assert what_was_run([one, two, one], 3) == [
        "2 runs, 1 of them diverged, 3 going on",
        "NVIDIA H200, cpu",
        "torch 2",
        "commit aaaaaaa, bbbbbbb+",
        "2026-01-01 to 2026-02-03",
    ]
    assert what_was_run([], 0) == ["no run has ended"]
    assert what_was_run([], 2) == ["no run has ended, 2 going on"]


def test_a_lone_method_is_summed_up_by_its_sentence():
    found = answer([Found("SAM", sample(2.0, 2.1, 2.2))], "SGDM")
    assert found.summary == "SAM is better than SGDM."
