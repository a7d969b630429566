"""scripts/export.py, as it is typed."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import pytest

from llqr_sam.repository import ROOT
from tests.scripts.running import script
from tests.suite.plans import plan_of
from tests.suite.records import write_record

RUNS = [plan_of(f"optim={optim}", f"seed={seed}")[0] for optim in ("sgdm", "sam") for seed in (0, 1)]


@pytest.fixture
def results(tmp_path) -> Path:
    """Four runs of two methods, one of them retried, and a damaged record."""
    write_record(tmp_path, RUNS[0], [5.0], "diverged")
    for number, run in enumerate(RUNS):
        write_record(tmp_path, run, [90.0, 91.0 + number])
    (tmp_path / "runs" / "adhoc" / "digits-small_cnn-asam-s0-00000000.json").write_text("{")
    return tmp_path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_a_run_and_a_row_an_evaluation(results):
    status, output, errors = script("export.py", f"paths.results={results}")
    assert status == 0
    assert [line.partition("  ->  ")[0] for line in output] == ["runs: 4 rows", "curves: 8 rows", "refreshes: 0 rows"]
    (problem,) = errors
    assert problem.startswith("record not exported: ")
    assert "digits-small_cnn-asam-s0-00000000.json" in problem
    runs = {row["run_id"]: row for row in rows(results / "export" / "runs.csv")}
    assert {run_id: float(row["best"]) for run_id, row in runs.items()} == {
        run.run_id: 91.0 + number for number, run in enumerate(RUNS)
    }
    assert {row["folder"] for row in runs.values()} == {"adhoc"}
    assert {row["run_id"] for row in rows(results / "export" / "curves.csv")} == set(runs)


def test_the_documents_pandas_reads_them(results, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pandas")
    assert script("export.py", f"paths.results={results}", "--output", f"{tmp_path}/results/export")[0] == 0
    blocks = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "records.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "pandas" in block)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "docs/records.md", "exec"), {})
    groups, curves = capsys.readouterr().out.split("optim.name")[1:3]
    assert "sgdm" in groups
    assert "91.5" in groups
    assert "sam" in curves


def test_words_choose_runs_and_output_the_folder(results, tmp_path):
    words = ("optim=sam", f"paths.results={results}", "seed=1", "--output", f"{tmp_path}/mine")
    assert script("export.py", *words)[0] == 0
    (row,) = rows(tmp_path / "mine" / "runs.csv")
    assert (row["optim.name"], row["seed"]) == ("sam", "1")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["optim=asam"], "error: there is nothing to export of 4 runs in {}/runs: none has optim.name=asam; they have"),
        (
            ["optim.roh=1"],
            "error: optim.roh=1 chooses no runs: optim.roh is no setting of one (did you mean optim.rho?)",
        ),
        (["paths.result=x"], "error: unknown key paths.result."),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(words, line, results):
    status, output, errors = script("export.py", *words, f"paths.results={results}")
    assert (status, output) == (2, [])
    assert errors[-1].startswith(line.format(results))
    assert not (results / "export").exists()


def test_without_pyarrow_parquet_is_one_sentence(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, errors = script("export.py", "--parquet", f"paths.results={results}")
    assert (status, errors) == (2, ["error: --parquet needs pyarrow, which is not installed: pip install pyarrow."])


def test_parquet_has_the_rows(results):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert script("export.py", "--parquet", f"paths.results={results}")[0] == 0
    assert parquet.read_table(results / "export" / "curves.parquet").num_rows == 8
