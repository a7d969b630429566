"""scripts/render_tables.py, as it is run."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from llqr_sam.suite.config import command
from llqr_sam.suite.config import command_line as words_module
from tests.suite.plans import plan_of
from tests.suite.records import write_record

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = ("table=demo", "table.seeds=[0,1,2]")
FAST = ("precision=fast", "precision.deterministic=true")  # of conf/reproduction.yaml


def render(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/render_tables.py", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_renders_the_demo_from_its_records(tmp_path):
    for run in plan_of(*DEMO)[:4]:
        write_record(tmp_path, run, [70.0, 60.0])
    words = (*DEMO, f"paths.results={tmp_path}")
    done = render(*words)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "demo"
    assert sorted(path.name for path in folder.iterdir()) == ["curves.png", "curves.svg", "table.csv", "table.md"]
    assert "70.00 ± 0.00 (3 of 3)" in (folder / "table.md").read_text()
    assert "21 runs: 4 finished, 17 missing" in done.stdout
    last = render("--entry", "last", *words)
    assert last.returncode == 0
    assert "60.00 ± 0.00 (3 of 3)" in (folder / "table.md").read_text()


def test_the_second_time_gives_the_same_bytes(tmp_path):
    for run, top1 in zip(plan_of(*DEMO)[:9], (70.0, 71.5, 69.0, 72.0, 70.1, 71.9, 74.0, 10.0, 73.0), strict=True):
        write_record(tmp_path, run, [top1, top1 - 1], "diverged" if top1 == 10.0 else "finished")
    words = (*DEMO, f"paths.results={tmp_path}", f"paths.workspace={tmp_path}/w", "table.formats=[md,csv,tex]")
    first, second = [
        (render(*words).stdout, {path.name: path.read_bytes() for path in (tmp_path / "demo").iterdir()}) for _ in "12"
    ]
    assert first == second
    assert len(first[1]) == 5  # three formats, and the curves as PNG and SVG


def test_files_that_are_no_records_are_named_and_the_rest_rendered(tmp_path):
    """Truncated, foreign, of an older version, a second record: a line each, and each once."""
    runs = plan_of(*DEMO)[:3]
    whole = write_record(tmp_path, runs[0], [70.0])
    second = write_record(tmp_path, runs[0], [99.0])
    truncated = write_record(tmp_path, runs[1], [70.0])
    truncated.write_text(truncated.read_text()[:200])
    old = write_record(tmp_path, runs[2], [70.0])
    old.write_text(old.read_text().replace('"schema": 1', '"schema": 0').replace('_commit": null', '_commit": "abc"'))
    foreign = tmp_path / "runs" / "notes" / "mine.json"
    foreign.parent.mkdir()
    foreign.write_text('{"foo": 1}')
    done = render(*DEMO, "table.curves=null", f"paths.results={tmp_path}", f"paths.workspace={tmp_path}/w")
    assert done.returncode == 0
    assert "70.00 (1 of 3)" in (tmp_path / "demo" / "table.md").read_text()
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    named = {path: next(line for line in lines if f" {path}: " in line) for path in (second, truncated, old, foreign)}
    assert named[second].endswith(f"the run has a record already, {whole}")
    assert named[old].endswith(
        "schema is 0, this version reads 1: the code of its commit, abc, reads it; here its run counts as missing"
    )
    assert "schema is None" in named[foreign]


def test_select_is_no_word_of_rendering():
    done = render("table=2", "select=weight_decay")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "a table shows what was selected" in done.stderr


@pytest.fixture
def renders(monkeypatch, capsys):
    """The script where Tables 6, 7 and 10 are all there are: exit status, output and errors."""

    def run(*words: str) -> tuple[int, str, str]:
        for module in (command, words_module):
            monkeypatch.setattr(module, "groups", lambda: found | {"table": ("6", "7", "10")})
        monkeypatch.setattr(sys, "argv", ["render_tables.py", *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(REPOSITORY / "scripts" / "render_tables.py"), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    found = words_module.groups()
    return run


def test_a_table_that_cannot_take_the_words_is_passed_over(renders, tmp_path):
    """Translation is not compiled; the tables after it are rendered all the same."""
    write_record(tmp_path, plan_of("table=7", *FAST)[0], [80.0, 80.5])
    status, output, errors = renders(*FAST, f"paths.results={tmp_path}")
    assert status == 0
    assert errors == "table=6 passed over: precision.compile=True has no use with dataset=iwslt14: leave it at False.\n"
    assert [re.match(r"(?:\w+=\w+ ?)+|claims", line)[0].strip() for line in output.splitlines()] == [
        "table=7",
        "table=7 scale=small",
        "table=10",
        "claims",
    ]
    assert "80.50 (1 of 5)" in (tmp_path / "tables" / "table_07.md").read_text()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("table=6", *FAST), "error: precision.compile=True has no use with dataset=iwslt14: leave it at False."),
        (("protocol.epochs=-1",), "error: protocol.epochs=-1 must be >= 1."),
        (("precision=fats",), "error: precision=fats is not a precision here."),
    ],
)
def test_what_was_named_or_no_table_can_take_is_a_mistake(renders, words, line, tmp_path):
    status, output, errors = renders(*words, f"paths.results={tmp_path}")
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(line)
    assert not list(tmp_path.iterdir())


def test_the_claims_alone(renders, tmp_path):
    """Without a table; a damaged record is named once."""
    for run in plan_of("table=7")[5:]:
        write_record(tmp_path, run, [80.0 + run.settings.seed + 2 * (run.cell.method == "llqr_sam")])
    (damaged := write_record(tmp_path, plan_of("table=7")[0], [80.0])).write_text("{")
    status, output, errors = renders("--claims", f"paths.results={tmp_path}")
    assert status == 0
    assert output.startswith("claims  Of 1 claim tested at the paper's scale, 1 is supported")
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["claims.csv", "claims.md"]
    assert (errors.count("\n"), str(damaged) in errors) == (1, True)


def test_the_claims_name_their_tables(renders, tmp_path):
    status, output, errors = renders("--claims", "table=7", f"paths.results={tmp_path}")
    assert (status, output) == (2, "")
    assert errors == "error: table=7 has no use here: the claims name their tables.\n"


def test_a_mistake_is_one_line():
    done = render("table=66")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "table=66 is not a table here" in done.stderr


def test_records_of_different_data_are_refused_and_named(tmp_path):
    runs = plan_of(*DEMO)[:2]
    for run, data in zip(runs, "ab", strict=True):
        write_record(tmp_path, run, [70.0], data=data * 64)
    done = render(*DEMO, f"paths.results={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the records of dataset=digits are of different data, aaaaaaaaaaaa (")
    assert all(run.run_id in done.stderr for run in runs)
    assert not (tmp_path / "demo").exists()
