"""scripts/storage.py, as it is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llqr_sam.studies.table_9 import STORAGE

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/storage.py", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_table_9(tmp_path):
    done = run(f"output={tmp_path}/table_09")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table_09.csv", "table_09.md", "table_09.tex"]
    assert (tmp_path / "table_09.csv").read_text().splitlines() == STORAGE.read_text().splitlines()


@pytest.mark.slow
def test_one_arch():
    done = run("arch=vit_tiny", "dataset=tinyimagenet", "structure=ekfac", "shards=4")
    assert done.returncode == 0, done.stderr
    assert "| ekfac | 5427080 | 24235082 | 23.11 | 43.82 |" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["arch=resnet51"], "arch=resnet51 is not an architecture here"),
        (["arch=resnet50", "shards=few"], "shards=few must be a whole number"),
        (["arch=small_cnn", "shards=1000000"], "shards=1000000 is not possible: U of arch=small_cnn has "),
        (["arch=resnet50", "dataset=cifar"], "dataset=cifar is not a data set here"),
        (["arch=transformer_iwslt", "words=9,"], "words= must be a whole number"),
        (["structure=ekfac"], "structure= needs arch=NAME"),
        (["arhc=resnet50"], "arhc=resnet50 is not possible"),
    ],
)
def test_a_mistake_is_one_line(words, sentence):
    done = run(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: {sentence}")
