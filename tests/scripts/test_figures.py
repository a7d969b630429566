"""scripts/figures.py, as it is run; what it draws is tested in tests/studies/theory/potholes/test_figures.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/figures.py", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_an_unknown_figure_is_one_line():
    done = run("2", "8")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr == "error: figure 8 is not drawn here. Choose from: 1, 2, 3, 4, 5, 6, claims.\n"


def test_words_without_a_figure_they_are_for():
    done = run("5", "table=2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr == "error: table=2 is for the figures drawn from runs. Name one of: 1, 4, claims.\n"


def test_what_has_no_records_is_said_and_no_mistake(tmp_path):
    done = run("1", "5", "6", "claims", "--results", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        f"figure={number}  not drawn" for number in (1, 5, 6, "claims")
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("table=8",), ("tabel=8",)])
def test_words_for_all_figures_are_checked_before_any_is_drawn(words, tmp_path):
    done = run(*words, "--results", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert not list(tmp_path.iterdir())


def test_a_named_figure_that_cannot_take_the_words_is_a_mistake(tmp_path):
    """Figure 4 is of translation, which is not compiled."""
    done = run("4", "precision=fast", "--results", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: precision.compile=True has no use with dataset=iwslt14")


def test_all_figures_under_words(tmp_path):
    """As `make figures precision=fast` draws them: Figure 4 is passed over, the rest comes."""
    done = run("precision=fast", f"paths.results={tmp_path}")
    assert done.returncode == 0, done.stderr
    drawn = [line.split()[0] for line in done.stdout.splitlines()]
    assert drawn == [f"figure={number}" for number in (1, "claims", 2, 3, 5, 6)]
    assert "\nfigure=4 passed over: precision.compile=True has no use" in f"\n{done.stderr}"
    assert (tmp_path / "figures" / "figure_02.png").exists()


def test_figure_3(tmp_path):
    done = run("3", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    names = ["figure_03.csv", "figure_03.png", "figure_03.svg", "figure_03_map.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert done.stdout.startswith("figure=3 ")
