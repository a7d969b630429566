"""The command: where the data goes, and one line for each mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import REPOSITORY, without
from tests.scripts.data_preparation.test_bitext import iwslt14, write

pytestmark = pytest.mark.slow


def prepare(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "scripts" / "prepare_iwslt14.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.nmt
def test_prepares_once_and_finds_it_the_second_time(tmp_path: Path) -> None:
    lines = "".join(f"zeile {number} .\n" for number in range(1, 70))
    source = write(tmp_path / "text", train_de=lines, train_en=lines, test_de="eins\n", test_en="one\n")
    words = ("--name", "multi30k", "--source", str(source), "--root", str(tmp_path / "data"), "--merges", "20")
    first, second = prepare(*words), prepare(*words)
    target = tmp_path / "data" / "multi30k"
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert first.stdout.endswith(f"multi30k is at {target}\n")
    assert second.stdout == f"multi30k is already at {target}\n"
    assert first.stderr == second.stderr == ""
    assert (target / "train.de-en.de.bin").exists()


def test_a_mistake_in_the_text_is_one_line(tmp_path: Path) -> None:
    source = write(tmp_path / "text", train_de="a\nb\n", train_en="a\n")
    done = prepare("--source", str(source), "--root", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {source}/train.de, line 2: train.en has no such line.")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--merges", "many"), "many is not a number of merges."),
        (("--name", "multi30k"), "--name multi30k needs --source"),
        (("--source", "text", "--archive", "a.tgz"), "--archive is about the archive, --source about a folder of text"),
        (("--source", "text", "--sha256", "0" * 64), "--sha256 is about the archive"),
        (("--train", "valid"), "--train is about a folder of text: it needs --source."),
        (("--tokenised",), "--tokenised is about a folder of text"),
        (("--sha256", "ABC"), "--sha256 ABC is not a SHA-256"),
        (("--name", "wmt14"), "invalid choice: 'wmt14'"),
    ],
)
def test_a_mistake_in_the_command(words: tuple[str, ...], complaint: str) -> None:
    done = prepare(*words)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "the archive {file} does not exist."),
        (b"<html>", "{file} is not a readable archive of IWSLT14: "),
        ("leave out", "{file} is not a readable archive of IWSLT14: "),
    ],
)
def test_a_mistake_in_the_archive_is_named_before_fairseq(tmp_path: Path, content: object, complaint: str) -> None:
    """fairseq is not needed for it."""
    environment = without(tmp_path / "hidden", "fairseq")
    file = tmp_path / "de-en.tgz"
    if content == "leave out":
        iwslt14(file, leave_out="IWSLT14.TED.tst2011.de-en.en.xml")
    elif isinstance(content, bytes):
        file.write_bytes(content)
    done = prepare("--archive", str(file), "--root", str(tmp_path / "data"), environment=environment)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: " + complaint.format(file=file))
    assert done.stderr.count("\n") == 1
