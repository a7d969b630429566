from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import pytest

from llqr_sam.data.registry import info
from llqr_sam.data.streams import Samples
from llqr_sam.engine.records.record import Flatness
from llqr_sam.report.tables.accuracy_table import BestOrLast, collect
from llqr_sam.report.tables.accuracy_text import print_accuracy
from llqr_sam.report.tables.printed_table import PrintedTable, to_latex, to_markdown, write_table
from llqr_sam.suite.config.command import Command
from llqr_sam.suite.run.run_folder import note_failure
from tests.suite.plans import plan_of
from tests.suite.records import record_of, write_record

RUNS = plan_of("table=7")  # FisherSAM, LLQR^Delta+SAM, LLQR+SAM, five seeds each
WHOLE = info("cifar100").whole
COLUMNS = (  # a contract: others read the files
    "table,dataset,arch,label_noise,method,geometry,n,mean,std,paper_mean,paper_std,planned,failed,diverged,entry,"
    "mean_low,mean_high,best_mean,best_std,best_epoch,last_mean,last_std,last_epoch,baseline,common_seeds,difference,"
    "difference_low,difference_high,paper_outside,hessian_top,hessian_trace,m_sharpness,best_of,selected,"
    "difference_t_low,difference_t_high,is_best"
)


def printed(results: Path, *words: str, kind: BestOrLast = "best") -> PrintedTable:
    """Table 7 as a reader sees it."""
    places = f"paths.results={results}", f"paths.workspace={results}/w"
    return print_accuracy(collect(Command.of("table=7", *places, *words), kind)[1])


def table(results: Path) -> PrintedTable:
    """FisherSAM: two seeds; LLQR^Delta+SAM: one finished, one diverged; LLQR+SAM: nothing. No baseline among them."""
    write_record(results, RUNS[0], [80.0, 79.0])
    write_record(results, RUNS[1], [70.0, 81.0])
    write_record(results, RUNS[5], [80.25])
    write_record(results, RUNS[6], [1.0], status="diverged")
    return printed(results, "table.baseline=sgdm")


def compared(results: Path) -> PrintedTable:
    """LLQR^Delta+SAM and LLQR+SAM against FisherSAM; seed 3 of LLQR+SAM has no partner and seed 4 failed."""
    for run, top1 in zip(RUNS[:2], (80.0, 81.0), strict=True):
        write_record(results, run, [top1])
    for run, top1 in zip([*RUNS[5:7], RUNS[10], RUNS[13]], (82.0, 80.0, 80.0, 85.0), strict=True):
        write_record(results, run, [top1])
    note_failure(RUNS[14].run_id, results / "w" / RUNS[14].run_id, RuntimeError("boom"))
    return printed(results)


def test_csv(tmp_path):
    rows = list(csv.DictReader(io.StringIO(table(tmp_path).csv)))
    assert ",".join(rows[0]) == COLUMNS
    assert list(rows[0].values())[:11] == [
        *("7", "cifar100", "resnet18", "0.0", "fisher_sam", ""),
        *("2", "80.5000", "0.7071", "80.89", "0.31"),
    ]
    assert [rows[1][key] for key in ("n", "mean", "std", "paper_mean")] == ["1", "80.2500", "", "81.23"]
    assert [rows[2][key] for key in ("n", "mean", "std", "paper_mean")] == ["0", "", "", "81.82"]
    assert [rows[1][key] for key in ("planned", "failed", "diverged", "entry")] == ["5", "0", "1", "best"]
    assert {key: rows[0][key] for key in COLUMNS.split(",")[15:23]} == {
        "mean_low": "74.1469",  # 80.5 -+ 12.706 x 0.7071 / sqrt(2)
        "mean_high": "86.8531",
        "best_mean": "80.5000",
        "best_std": "0.7071",
        "best_epoch": "1.5000",
        "last_mean": "80.0000",
        "last_std": "1.4142",
        "last_epoch": "2.0000",
    }
    assert [rows[0][key] for key in ("baseline", "common_seeds", "difference", "paper_outside")] == ["", "", "", "no"]
    assert {row["selected"] for row in rows} == {"weight_decay=0.0005 (default)"}


def test_csv_of_differences(tmp_path):
    rows = list(csv.DictReader(io.StringIO(compared(tmp_path).csv)))
    keys = ("baseline", "common_seeds", "difference", "difference_low", "difference_high")
    assert [rows[0][key] for key in keys] == ["fisher_sam", "0", "", "", ""]
    assert [rows[1][key] for key in keys] == ["fisher_sam", "2", "0.5000", "-1.0000", "2.0000"]
    assert [rows[2][key] for key in keys] == ["fisher_sam", "1", "0.0000", "", ""]
    student = ("difference_t_low", "difference_t_high")
    assert [rows[1][key] for key in student] == ["-18.5593", "19.5593"]  # 0.5 -+ 12.706 x 2.1213 / sqrt(2)
    assert [rows[2][key] for key in student] == ["", ""]


def test_markdown(tmp_path):
    text = to_markdown(table(tmp_path))
    assert text.startswith("# Table 7: ")
    assert "| Data set | Network | FisherSAM | LLQR^Δ+SAM (NGD) | LLQR+SAM (NGD) |" in text
    assert "80.50 ± 0.71 (2 of 5)<br>last 80.00 ± 1.41<br>paper 80.89 ± 0.31 |" in text
    assert "80.25 (1 of 5, 1 diverged)<br>last 80.25<br>paper 81.23 ± 0.14" in text
    assert "not run<br>paper 81.82 ± 0.14" in text
    assert "3 of 15 runs finished, 1 diverged. Command: `python train.py table=7 table.baseline=sgdm`." in text


def test_differences_failures_and_papers_outside(tmp_path):
    text = to_markdown(compared(tmp_path))
    assert "<br>Δ +0.50 [-18.56, +19.56]<br>paper 81.23 ± 0.14 |" in text
    assert "| 82.50 ± 3.54 (2 of 5, 1 failed)<br>last 82.50 ± 3.54<br>Δ +0.00 over 1 seed<br>paper" in text
    assert "Δ: mean difference to FisherSAM over common seeds [95 % t interval]." in text
    assert "6 of 15 runs finished, 1 failed." in text
    assert "†" not in text


def test_a_paper_value_outside_our_interval_is_marked(tmp_path):
    for run, top1 in zip(RUNS[:3], (90.0, 90.1, 90.2), strict=True):
        write_record(tmp_path, run, [top1])
    found = printed(tmp_path)
    assert "paper 80.89 ± 0.31 †" in to_markdown(found)
    assert "†: it is outside the 95 % t interval" in to_markdown(found)
    assert r"80.89 $\pm$ 0.31 $^\dagger$" in to_latex(found)
    assert next(csv.DictReader(io.StringIO(found.csv)))["paper_outside"] == "yes"


def of_samples(results: Path, *found: Samples | None) -> PrintedTable:
    """Of FisherSAM's first seeds, trained on so many images."""
    for run, samples in zip(RUNS, found, strict=False):
        record_of(run, [80.0], samples=samples).write(results / "runs" / run.folder / f"{run.run_id}.json")
    return printed(results)


@pytest.mark.parametrize("found", [(), (None, None), (WHOLE, WHOLE, None)])
def test_a_table_of_whole_data_does_not_say_so(tmp_path, found):
    table = of_samples(tmp_path, *found)
    assert all("rained on" not in text for text in (to_markdown(table), to_latex(table)))


@pytest.mark.parametrize(
    ("found", "sentences"),
    [
        ([Samples(20_000, 10_000)], ["Trained on 20,000 of CIFAR-100's 50,000 images, tested on 10,000."]),
        ([Samples(50_000, 9_000)], ["Trained on 50,000 of CIFAR-100's 50,000 images, tested on 9,000 of 10,000."]),
        (
            [Samples(40_000, 10_000), WHOLE, None, Samples(600, 200), Samples(40_000, 10_000)],
            [
                "Trained on 600 of CIFAR-100's 50,000 images, tested on 200 of 10,000.",
                "Trained on 40,000 of CIFAR-100's 50,000 images, tested on 10,000.",
            ],
        ),
    ],
)
def test_fewer_images_than_the_data_set_has_are_said(tmp_path, found, sentences):
    table = of_samples(tmp_path, *found)
    for text in (to_markdown(table), to_latex(table)):
        assert text.count("Trained on") == len(sentences)
        assert " ".join(sentences) in text


def test_what_was_selected_is_said(tmp_path):
    assert to_markdown(table(tmp_path)).endswith(
        "\n\n- weight_decay 0.0005 (the protocol's, nothing selected): CIFAR-100 ResNet-18.\n"
    )
    assert r"weight\_decay 0.0005 (the protocol's, nothing selected)" in to_latex(table(tmp_path))


def test_sharpness_is_shown_where_a_run_measured_it(tmp_path):
    """A line of the cell and three columns: means over the seeds that have it, here one of two."""
    flat = Flatness(eigenvalues=[12.5, 3.0], trace=40.0, m_sharpness=0.0125, rho=0.2, m=128, samples=1024, seconds=1.0)
    path = tmp_path / "runs" / RUNS[0].folder / f"{RUNS[0].run_id}.json"
    dataclasses.replace(record_of(RUNS[0], [80.0]), sharpness=flat).write(path)
    write_record(tmp_path, RUNS[1], [81.0])
    found = printed(tmp_path)
    assert "<br>sharpness top 12.5, trace 40, m 0.0125<br>paper" in to_markdown(found)
    assert '"sharpness": of the loss on 1,024 training samples at the end' in to_markdown(found)
    assert r" & sharpness & top 12.5, trace 40, m 0.0125 &  &  \\" in to_latex(found)
    rows = list(csv.DictReader(io.StringIO(found.csv)))
    keys = ("hessian_top", "hessian_trace", "m_sharpness")
    assert [[row[key] for key in keys] for row in rows[:2]] == [["12.5000", "40.0000", "0.0125"], ["", "", ""]]
    write_record(tmp_path / "other", RUNS[1], [81.0])
    other = printed(tmp_path / "other")
    assert "sharpness" not in to_markdown(other)


def test_m_sharpness_at_different_radii_is_not_averaged(tmp_path):
    """The radius is no setting of a run; the Hessian's numbers do not depend on it."""
    for run, rho in zip(RUNS[:2], (0.1, 0.2), strict=True):
        flat = Flatness(eigenvalues=[12.5], trace=40.0, m_sharpness=rho, rho=rho, m=128, samples=1024, seconds=1.0)
        path = tmp_path / "runs" / run.folder / f"{run.run_id}.json"
        dataclasses.replace(record_of(run, [80.0]), sharpness=flat).write(path)
    text = to_markdown(printed(tmp_path))
    assert "<br>sharpness top 12.5, trace 40<br>paper" in text
    assert "m-sharpness is left out where seeds measured it at different radii." in text


def test_latex(tmp_path):
    text = to_latex(table(tmp_path))
    assert r"80.50 $\pm$ 0.71 (2 of 5) & 80.25 (1 of 5, 1 diverged) & not run \\" in text
    assert r" & paper & 80.89 $\pm$ 0.31 & 81.23 $\pm$ 0.14 & 81.82 $\pm$ 0.14 \\" in text
    assert r"LLQR$^\Delta$+SAM" in text
    assert text.count("{") == text.count("}")


def test_latex_of_differences(tmp_path):
    text = to_latex(compared(tmp_path))
    assert r" & $\Delta$ &  & $+0.50$ [$-18.56$, $+19.56$] & $+0.00$ over 1 seed \\" in text
    assert r" & last & 80.50 $\pm$ 0.71 & 81.00 $\pm$ 1.41 & 82.50 $\pm$ 3.54 \\" in text


def test_only_diverged(tmp_path):
    write_record(tmp_path, RUNS[10], [], status="diverged")
    assert "| 0 of 5, 1 diverged<br>paper 81.82" in to_markdown(table(tmp_path))


def test_equal_records_give_equal_bytes(tmp_path):
    paths = write_table(table(tmp_path), tmp_path / "tables" / "table_07", ["md", "csv", "tex"])
    first = [path.read_bytes() for path in paths]
    assert [path.name for path in paths] == ["table_07.md", "table_07.csv", "table_07.tex"]
    write_table(table(tmp_path), tmp_path / "tables" / "table_07", ["md", "csv", "tex"])
    assert [path.read_bytes() for path in paths] == first


def marked(found: PrintedTable) -> list[bool]:
    """Which cells of the only row are marked: the same in Markdown, LaTeX and CSV."""
    (row,) = found.groups[0].rows
    cells = [cell.best for cell in row.cells]
    assert [each["is_best"] == "True" for each in csv.DictReader(io.StringIO(found.csv))] == cells
    ours = [cell.ours for cell in row.cells]
    assert [f"| **{text}**<br>" in to_markdown(found) for text in ours] == cells
    assert to_latex(found).count(r"\textbf{") == sum(cells)
    return cells


@pytest.mark.parametrize(
    ("fisher", "probe", "both", "best"),
    [
        ((80.0, 81.0, 82.0), (80.5, 81.4, 82.6), (81.0, 82.1, 83.0), [False, False, True]),
        ((80.0, 81.0, 82.0), (81.0, 82.1, 83.0), (80.5, 81.4, 82.6), [False, True, False]),
        ((80.0, 81.0, 82.0), (80.5, 81.4, 82.6), (84.0, 80.5, 83.0), [False, False, False]),  # its interval holds 0
        ((90.0, 91.0, 92.0), (80.5, 81.4, 82.6), (81.0, 82.1, 83.0), [False, False, False]),  # the baseline is best
        ((80.0,), (81.0,), (82.0,), [False, False, False]),  # a seed has no interval
    ],
)
def test_the_best_of_a_row_is_marked_where_it_is_surely_above_the_baseline(tmp_path, fisher, probe, both, best):
    for first, scores in ((0, fisher), (5, probe), (10, both)):
        for run, score in zip(RUNS[first:], scores, strict=False):
            write_record(tmp_path, run, [score])
    assert marked(printed(tmp_path)) == best


def test_nothing_is_marked_without_a_baseline(tmp_path):
    for run, score in zip([*RUNS[:3], *RUNS[10:13]], (80.0, 81.0, 82.0, 85.0, 86.1, 87.0), strict=True):
        write_record(tmp_path, run, [score])
    assert marked(printed(tmp_path)) == [False, False, True]
    assert marked(printed(tmp_path, "table.baseline=sgdm")) == [False, False, False]


def test_of_how_many_evaluations_a_best_is_the_best(tmp_path):
    """Said of the table as a whole, and in the CSV of each cell; of nothing finished, nothing."""
    empty = printed(tmp_path)
    assert "evaluation" not in to_markdown(empty)
    write_record(tmp_path, RUNS[0], [80.0, 81.0])
    write_record(tmp_path, RUNS[1], [80.0, 81.0])
    first = printed(tmp_path)
    assert "best over training (of 2 evaluations): mean" in to_markdown(first)
    write_record(tmp_path, RUNS[5], [80.0] * 40, epochs=[5 * number for number in range(1, 41)])
    last = printed(tmp_path, kind="last")
    assert "last epoch (best of 2 to 40 evaluations): mean" in to_markdown(last)
    rows = csv.DictReader(io.StringIO(last.csv))
    assert [row["best_of"] for row in rows] == ["2", "40", ""]
