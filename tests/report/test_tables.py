from __future__ import annotations

import csv
import io
from pathlib import Path

from llqr_sam.report.entries import Table, build_table
from llqr_sam.report.paper import read_accuracy
from llqr_sam.report.tables import COLUMNS, to_csv, to_latex, to_markdown, write_table
from llqr_sam.suite.status import Status
from tests.suite.plans import plan_of
from tests.suite.records import write_record

RUNS = plan_of("table=7")  # FisherSAM, LLQR^Delta+SAM, LLQR+SAM, five seeds each


def table(results: Path) -> Table:
    """FisherSAM: two seeds; LLQR^Delta+SAM: one finished, one diverged; LLQR+SAM: nothing."""
    for run, top1 in zip(RUNS[:2], (80.0, 81.0), strict=True):
        write_record(results, run, [top1])
    write_record(results, RUNS[5], [80.25])
    write_record(results, RUNS[6], [1.0], status="diverged")
    command = "python train.py table=7"
    return build_table("7", "Probe alone", command, Status.of(RUNS, results), read_accuracy())


def test_csv(tmp_path):
    rows = list(csv.DictReader(io.StringIO(to_csv(table(tmp_path)))))
    assert tuple(rows[0]) == COLUMNS
    assert to_csv(table(tmp_path)).splitlines()[0] == (
        "table,dataset,arch,label_noise,method,geometry,n,mean,std,paper_mean,paper_std"
    )
    assert list(rows[0].values()) == [
        *("7", "cifar100", "resnet18", "0.0", "fisher_sam", ""),
        *("2", "80.5000", "0.7071", "80.89", "0.31"),
    ]
    assert [rows[1][key] for key in ("n", "mean", "std", "paper_mean")] == ["1", "80.2500", "", "81.23"]
    assert [rows[2][key] for key in ("n", "mean", "std", "paper_mean")] == ["0", "", "", "81.82"]


def test_markdown(tmp_path):
    text = to_markdown(table(tmp_path))
    assert "# Table 7: Probe alone" in text
    assert "| Data set | Network | FisherSAM | LLQR^Δ+SAM (NGD) | LLQR+SAM (NGD) |" in text
    assert "**80.50 ± 0.71 (2)**<br>paper 80.89 ± 0.31" in text
    assert "80.25 (1, 1 diverged)<br>paper 81.23 ± 0.14" in text
    assert "not run<br>paper 81.82 ± 0.14" in text
    assert text.count("**80.50") == 1
    assert "3 of 15 runs finished, 1 diverged. Command: `python train.py table=7`." in text


def test_latex(tmp_path):
    text = to_latex(table(tmp_path))
    assert r"\textbf{80.50 $\pm$ 0.71 (2)} & 80.25 (1, 1 diverged) & not run \\" in text
    assert r" & paper & 80.89 $\pm$ 0.31 & 81.23 $\pm$ 0.14 & 81.82 $\pm$ 0.14 \\" in text
    assert r"LLQR$^\Delta$+SAM" in text
    assert text.count("{") == text.count("}")


def test_only_diverged(tmp_path):
    write_record(tmp_path, RUNS[10], [], status="diverged")
    assert "diverged (1)<br>paper 81.82" in to_markdown(table(tmp_path))


def test_equal_records_give_equal_bytes(tmp_path):
    paths = write_table(table(tmp_path), tmp_path / "tables" / "table_07", ["md", "csv", "tex"])
    first = [path.read_bytes() for path in paths]
    assert [path.name for path in paths] == ["table_07.md", "table_07.csv", "table_07.tex"]
    write_table(table(tmp_path), tmp_path / "tables" / "table_07", ["md", "csv", "tex"])
    assert [path.read_bytes() for path in paths] == first
