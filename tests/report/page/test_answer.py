"""Who wins, by how much, how sure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from llqr_sam.report.page.answer import answer, difference_of, what_was_run
from llqr_sam.report.page.section import Answer
from llqr_sam.report.page.track import Axis, Effect
from llqr_sam.report.tables.seed_statistics import Sample
from tests.suite.plans import plan_of
from tests.suite.records import record_of


def answered(diverged: Mapping[str, int] | None = None, **differences: tuple[float, ...]) -> Answer:
    """Of methods with these differences to SGDM."""
    samples = {method: Sample(dict(enumerate(values))) for method, values in differences.items()}
    axis = Axis.over([Effect(sample) for sample in samples.values()])
    lost = diverged or {}
    found = [(method, difference_of(sample, axis), lost.get(method, 0)) for method, sample in samples.items()]
    return answer(found, axis, "SGDM", "points")


def test_a_sentence_for_each_method_the_highest_difference_first():
    found = answered(LLQR=(-0.4, 0.4, 0.1), SAM=(2.0, 2.1, 2.2), Adam=(-3.0, -3.1, -3.2), FSAM=(5.0,))
    assert [(each.method, each.verdict) for each in found.sentences] == [
        ("FSAM", "has one seed, too few to be compared with SGDM"),
        ("SAM", "is better than SGDM"),
        ("LLQR", "cannot be told from SGDM"),
        ("Adam", "is worse than SGDM"),
    ]
    assert found.sentences[1].difference.interval == "[+1.85, +2.35]"  # 2.1 -+ 4.303 x 0.1 / sqrt(3)
    assert found.summary == (
        "1 of 4 methods is better than SGDM, 1 is worse, 1 cannot be told from it, 1 has one seed."
    )


def test_diverged_runs_are_said():
    found = answered({"SAM": 2}, SAM=(2.0, 2.1, 2.2), LLQR=(1.0, 1.1, 1.2))
    assert [each.lost for each in found.sentences] == ["2 diverged", ""]


def test_a_lone_method_is_summed_up_by_its_sentence():
    assert answered(SAM=(2.0, 2.1, 2.2)).summary == "SAM is better than SGDM."


def test_what_was_run():
    first, second = plan_of("table=demo", "table.seeds=[0]")[:2]
    one = dataclasses.replace(record_of(first, [90.0]), git_commit="a" * 40, device="NVIDIA H200")
    two = dataclasses.replace(
        record_of(second, [1.0], status="diverged"), git_commit="b" * 40, git_dirty=True, started="2026-02-03T00:00:00"
    )
    assert what_was_run([one, two, one], 3, failed=1) == [
        "2 runs, 1 of them diverged, 1 failed, 3 going on",
        "NVIDIA H200, cpu",
        "torch 2",
        "commit aaaaaaa, bbbbbbb+",
        "2026-01-01 to 2026-02-03",
    ]
    assert what_was_run([], 0) == ["no run has ended"]
    assert what_was_run([], 2) == ["no run has ended, 2 going on"]
