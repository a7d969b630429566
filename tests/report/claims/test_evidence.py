from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from llqr_sam.report.claims import evidence as evidence_module
from llqr_sam.report.claims.claim import Claim, Claims, Scale, read_claims
from llqr_sam.report.claims.effect import mean_effect
from llqr_sam.report.claims.evidence import Evidence, Finding, find, gather, word_of
from llqr_sam.report.tables.accuracy_table import collect, read_accuracy
from llqr_sam.report.tables.seed_statistics import Sample
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.config.errors import UsageError
from llqr_sam.suite.plan.plan import Planned
from tests.report.claims.made_up import flat, gather_at_paper, timed, write
from tests.suite.plans import plan_of
from tests.suite.records import record_of, write_record

CLAIMS = {claim.name: claim for claim in read_claims().claims}
PAPER = Scale("paper", "the paper's scale")


def runs(number: str, label: str, arch: str = "resnet18", noise: float = 0.0) -> list[Planned]:
    """The seeds of a cell of CIFAR-100."""
    found = [run for run in plan_of(f"table={number}") if run.cell.label == label and run.cell.arch == arch]
    return [run for run in found if run.cell.label_noise == noise and run.cell.dataset == "cifar100"]


def scores(results: Path, number: str, label: str, *values: float, last: float = 0.0, noise: float = 0.0, **row: str):
    """Write records of a cell: a best score for each seed, and a last one so much below it."""
    for run, value in zip(runs(number, label, noise=noise, **row), values, strict=False):
        write_record(results, run, [value, value - last])


def finding(results: Path, name: str, *numbers: str) -> Finding:
    """A claim in these tables at the paper's scale."""
    tables = {number: collect(Command.of(f"table={number}", f"paths.results={results}"))[1] for number in numbers}
    found = find(CLAIMS[name], PAPER, tables, read_accuracy())
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ((1.0, 1.1, 0.9), "supported"),
        ((-1.0, -1.1, -0.9), "contradicted"),
        ((1.0, -1.1, 0.9), "undecided"),
        ((0.0, 0.0, 0.0), "undecided"),
        ((1.0,), "not run"),
        ((), "not run"),
    ],
)
def test_the_interval_decides_and_a_claim_of_less_is_its_mirror_image(values, word):
    effect, claim = Sample(dict(enumerate(values))), CLAIMS["transport"]
    assert word_of(claim, effect) == word
    mirrored = dataclasses.replace(claim, sign=-1)
    assert word_of(mirrored, effect.map(lambda value: -value)) == word


def test_a_difference_is_paired_by_seed_and_has_the_papers_beside_it(tmp_path):
    """Table 7: seed 2 has no partner. Best and last have words of their own."""
    scores(tmp_path, "7", "llqr_sam-ngd", 81.0, 82.2, 95.0, last=1.0)
    for run, value in zip(runs("7", "llqr_probe_sam-ngd"), (80.0, 81.0), strict=False):
        write_record(tmp_path, run, [value, value + 5.0])
    line = finding(tmp_path, "transport", "7").headline
    assert dict(line.effect.best.by_seed) == pytest.approx({0: -4.0, 1: -3.8})  # 85 and 86 are the others' best
    assert dict(line.effect.last.by_seed) == pytest.approx({0: -5.0, 1: -4.8})
    assert (line.n, line.word, line.last_word) == (2, "contradicted", "contradicted")
    assert line.effect.paper == pytest.approx(81.82 - 81.23)
    assert line.p == 2 / 4


def test_several_rows_are_pooled_over_the_seeds_that_all_have(tmp_path):
    """Two of Table 2's four rows, of 3 and 2 seeds: the pooled line is over two rows and two seeds."""
    scores(tmp_path, "2", "sam", 80.0, 80.0, 80.0)
    scores(tmp_path, "2", "sgdm", 79.0, 79.5, 70.0)
    scores(tmp_path, "2", "sam", 76.0, 76.0, arch="vgg16_bn")
    scores(tmp_path, "2", "sgdm", 74.0, 74.5, arch="vgg16_bn")
    found = finding(tmp_path, "sam_over_sgdm", "2")
    (pooled,) = found.pooled
    assert found.headline is pooled
    assert dict(pooled.effect.best.by_seed) == pytest.approx({0: 1.5, 1: 1.0})
    assert (pooled.pooled, pooled.rows, pooled.n, len(found.lines)) == (2, 4, 2, 4)
    assert pooled.effect.paper == pytest.approx(((81.13 - 79.27) + (76.70 - 75.65)) / 2)
    assert [line.word for line in found.lines].count("not run") == 2


def test_one_seed_does_not_pool(tmp_path):
    """A row of one seed would take the pooled line down to it."""
    scores(tmp_path, "2", "sam", 80.0, 80.1, 80.0)
    scores(tmp_path, "2", "sgdm", 79.0, 79.0, 79.0)
    scores(tmp_path, "2", "sam", 10.0, arch="vgg16_bn")
    scores(tmp_path, "2", "sgdm", 74.0, arch="vgg16_bn")
    scores(tmp_path, "2", "sam", 70.0, 70.1, 70.0, arch="pyramidnet110")
    scores(tmp_path, "2", "sgdm", 69.0, 69.0, 69.0, arch="pyramidnet110")
    found = finding(tmp_path, "sam_over_sgdm", "2")
    assert (found.headline.pooled, found.headline.n, found.headline.word) == (2, 3, "supported")


def test_the_only_row_that_was_run_speaks_for_the_claim(tmp_path):
    """It is not repeated as a pooled line of one row; nor where a claim has several measures."""
    scores(tmp_path, "2", "sam", 76.0, 76.1, 76.0, arch="vgg16_bn")
    scores(tmp_path, "2", "sgdm", 74.0, 74.0, 74.0, arch="vgg16_bn")
    found = finding(tmp_path, "sam_over_sgdm", "2")
    assert (found.headline.arch, found.headline.n, found.headline.word) == ("vgg16_bn", 3, "supported")
    assert (found.pooled, len(found.all_lines)) == ((), 4)
    flatness(tmp_path, sam=(10.0, 20.0, 30.0), sgdm=(20.0, 80.0, 120.0))
    found = finding(tmp_path, "flatter_sam_than_sgdm", "2")
    assert [line.measure for line in found.all_lines[:3]] == ["hessian_top", "hessian_trace", "m_sharpness"]
    assert {line.arch for line in found.summaries} == {"resnet18"}


def test_growth_is_a_difference_of_differences(tmp_path):
    """From the lowest to the highest noise of the table, whatever lies between."""
    for noise, sam, sgdm in ((0.2, (67.0, 67.0), (63.0, 64.0)), (0.8, (31.0, 32.0), (22.0, 23.0))):
        scores(tmp_path, "8", "sam", *sam, noise=noise)
        scores(tmp_path, "8", "sgdm", *sgdm, noise=noise)
    line = finding(tmp_path, "growth_sam_over_sgdm", "8").headline
    assert dict(line.effect.best.by_seed) == pytest.approx({0: 9.0 - 4.0, 1: 9.0 - 3.0})
    assert line.effect.paper == pytest.approx((31.19 - 22.97) - (67.15 - 63.41))
    assert (line.label_noise, line.word) == ("0.2 to 0.8", "undecided")


def test_a_growth_needs_two_noise_levels():
    tables = {"8": collect(Command.of("table=8", "dataset.label_noise=0.2"))[1]}
    assert find(CLAIMS["growth_sam_over_sgdm"], PAPER, tables, {}) is None


def flatness(results: Path, **tops: tuple[float, ...]) -> None:
    for label, values in tops.items():
        for run, top in zip(runs("2", label), values, strict=False):
            write(results, run, flat(record_of(run, [80.0]), top))


def test_a_ratio_is_that_of_the_geometric_means(tmp_path):
    flatness(tmp_path, sam=(10.0, 20.0, 30.0), sgdm=(20.0, 80.0, 120.0))
    found = finding(tmp_path, "flatter_sam_than_sgdm", "2")
    row = next(line for line in found.lines if line.n)
    assert row.effect.best.values == pytest.approx([math.log(1 / 2), math.log(1 / 4), math.log(1 / 4)])
    assert row.claim.shown(row.effect.best.mean) == pytest.approx((1 / 32) ** (1 / 3))
    assert (row.word, row.effect.paper, row.last_word) == ("supported", None, None)
    assert {line.measure for line in found.summaries} == {"hessian_top", "hessian_trace", "m_sharpness"}
    assert found.headline.measure == "hessian_top"


def test_what_is_not_positive_or_not_measured_alike_is_unusable(tmp_path):
    """A negative trace leaves the eigenvalue alone; m-sharpness at another radius has no ratio."""
    flatness(tmp_path, sam=(10.0, 20.0, 30.0))
    for run, trace in zip(runs("2", "sgdm"), (-1.0, 60.0, 90.0), strict=False):
        write(tmp_path, run, flat(record_of(run, [80.0]), 20.0, trace, rho=0.1))
    found = finding(tmp_path, "flatter_sam_than_sgdm", "2")
    run = {line.measure: line for line in found.lines if line.n + line.effect.unusable}
    assert {name: (line.n, line.effect.unusable) for name, line in run.items()} == {
        "hessian_top": (3, 0),
        "hessian_trace": (2, 1),
        "m_sharpness": (0, 3),
    }


def test_flatness_on_other_numbers_of_samples_has_no_ratio(tmp_path):
    """Two of three seeds were measured on as many samples by both methods."""
    flatness(tmp_path, sam=(10.0, 20.0, 30.0))
    for run, samples in zip(runs("2", "sgdm"), (1024, 256, 1024), strict=False):
        record = flat(record_of(run, [80.0]), 20.0)
        write(
            tmp_path, run, dataclasses.replace(record, sharpness=dataclasses.replace(record.sharpness, samples=samples))
        )
    found = finding(tmp_path, "flatter_sam_than_sgdm", "2")
    run = [(line.n, line.effect.unusable) for line in found.lines if line.n]
    assert run == [(2, 1)] * 3


def test_times_are_without_evaluation_and_of_one_device(tmp_path):
    """2.2 over 2 hours of training on the same device: within the limit of 1.25. Seed 2 was trained elsewhere."""
    for label, seconds in (("sam", 7200.0), ("llqr_sam-ngd", 7920.0)):
        for run, device in zip(runs("2", label), ("cpu", "cpu", f"of {label}"), strict=False):
            write(tmp_path, run, timed(record_of(run, [80.0]), seconds + 999.0, 999.0, device))
    row = next(line for line in finding(tmp_path, "overhead", "2").lines if line.n)
    assert row.effect.best.values == pytest.approx([math.log(1.1)] * 2)
    assert (row.effect.unusable, row.word) == (1, "supported")
    assert row.claim.shown(row.detectable) == pytest.approx(1.25)  # no spread: any ratio below the limit


@pytest.mark.parametrize(("ratio", "word"), [(1.2, "supported"), (1.3, "contradicted")])
def test_the_limit_of_the_overhead_is_its_bound(ratio, word):
    effect = Sample({0: math.log(ratio), 1: math.log(ratio) + 1e-3})
    assert word_of(CLAIMS["overhead"], effect) == word


def test_only_noisy_rows_count_under_label_noise(tmp_path):
    """A table of a scale's own has both methods without noise."""
    tables = {"epochs_15": collect(Command.of("table=epochs_15", f"paths.results={tmp_path}"))[1]}
    own = Scale("short", "15 epochs", tables=["epochs_15"])
    assert find(CLAIMS["llqr_sam_over_sam_ngd"], own, tables, read_accuracy()) is not None
    assert find(CLAIMS["noise_llqr_sam_over_sam"], own, tables, read_accuracy()) is None
    assert find(CLAIMS["translation"], own, tables, read_accuracy()) is None


def test_the_mean_effect_of_nothing_is_empty():
    assert (mean_effect([]).best.values, mean_effect([]).paper) == ((), None)


def gathered(results: Path, *words: str, numbers: tuple[str, ...] = ("7",)) -> Evidence:
    return gather(numbers, [*words, f"paths.results={results}"])


def test_nothing_run_is_said_with_its_command(tmp_path):
    found = gather_at_paper(["7"], [f"paths.results={tmp_path}"]).findings
    assert {finding.claim.name for finding in found} == {"transport", "learned_probe"}
    assert {line.word for finding in found for line in finding.all_lines} == {"not run"}
    assert all(line.commands == ("python train.py table=7",) for line in found[0].all_lines)


def test_a_claim_of_flatness_names_how_it_is_measured(tmp_path):
    found = gather_at_paper(["2"], [f"paths.results={tmp_path}"]).findings
    commands = {finding.claim.name: finding.headline.commands for finding in found}
    assert commands["flatter_sam_than_sgdm"] == ("python train.py table=2 sharpness=true",)
    assert commands["overhead"] == commands["sam_over_sgdm"] == ("python train.py table=2",)


def test_damaged_and_mixed_records_are_named_and_the_rest_is_read(tmp_path):
    first, second, *_ = runs("7", "fisher_sam")
    write_record(tmp_path, first, [80.0]).write_text("{")
    for run, data in zip(runs("2", "sam"), "ab", strict=False):
        write_record(tmp_path, run, [80.0], data=data * 64)
    evidence = gather_at_paper(["2", "7"], [f"paths.results={tmp_path}"])
    assert {name for finding in evidence.findings for name in finding.headline.tables} == {"7"}
    mixed, damaged = evidence.problems
    assert mixed.startswith("table=2 passed over: the records of dataset=cifar100 are of different data")
    assert "record not counted" in damaged
    assert first.run_id in damaged
    assert second.run_id not in damaged


def test_words_choose_the_runs_and_name_no_table(tmp_path):
    for run in plan_of("table=7", "precision=fast"):
        write_record(tmp_path, run, [80.0 + run.settings.seed % 2 + len(run.cell.method)])
    for words, n in (([], 0), (["precision=fast"], 5)):
        found = gather_at_paper(["7"], [*words, f"paths.results={tmp_path}"]).findings
        assert {finding.headline.n for finding in found} == {n}
    with pytest.raises(UsageError, match="table=7 has no use here"):
        gathered(tmp_path, "table=7")
    with pytest.raises(UsageError, match="precision=fats"):
        gathered(tmp_path, "precision=fats")


def test_a_scale_selects_its_runs_by_its_words(tmp_path, monkeypatch):
    """Of three scales: one has runs, one has none, and one is unknown to this configuration."""
    scales = [PAPER, Scale("brief", "2 epochs", ["protocol.epochs=2"]), Scale("odd", "no scale", ["scale=odd"])]
    monkeypatch.setattr(evidence_module, "read_claims", lambda: Claims(scales, [CLAIMS["transport"]]))
    for run in plan_of("table=7", "protocol.epochs=2"):
        write_record(tmp_path, run, [80.0 + run.settings.seed % 2])
    for words in ((), ("scale=odd",)):
        evidence = gathered(tmp_path, *words)
        assert {(finding.scale.name, finding.headline.n) for finding in evidence.findings} == {
            ("paper", 0),
            ("brief", 5),
        }
        assert evidence.problems == ()
    assert [scale.name for scale in evidence.scales] == ["brief", "paper", "odd"]
    brief = next(finding.headline for finding in evidence.findings if finding.scale.name == "brief")
    assert brief.commands == ("python train.py table=7 protocol.epochs=2",)
    assert brief.effect.paper == pytest.approx(81.82 - 81.23)  # of the same row


def test_a_claim_and_its_mirror_image_need_the_same_effect():
    """What can be detected lies on the claimed side of the bound."""
    effect = Sample({0: 0.1, 1: -0.2, 2: 0.4})
    claim: Claim = CLAIMS["overhead"]
    found = find(CLAIMS["transport"], PAPER, {"7": collect(Command.of("table=7"))[1]}, {})
    line = dataclasses.replace(
        found.headline, claim=claim, effect=dataclasses.replace(found.headline.effect, best=effect)
    )
    assert line.detectable == pytest.approx(math.log(1.25) - effect.detectable())
    other = dataclasses.replace(line, claim=dataclasses.replace(claim, sign=1))
    assert other.detectable == pytest.approx(math.log(1.25) + effect.detectable())


def test_a_row_that_two_tables_have_counts_once(tmp_path):
    """Table 4 repeats Table 2's cells of SAM and LLQR+SAM."""
    tables = {number: collect(Command.of(f"table={number}", f"paths.results={tmp_path}"))[1] for number in ("2", "4")}
    found = find(CLAIMS["llqr_sam_over_sam_ngd"], PAPER, tables, read_accuracy())
    rows = [(line.dataset, line.arch) for line in found.lines]
    assert len(rows) == len(set(rows)) == 8
    assert {line.tables for line in found.lines if line.dataset == "cifar100"} == {("2",)}
