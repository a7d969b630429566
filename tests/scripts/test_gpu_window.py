"""The window on a GPU, tried without one: it leaves an archive from which another checkout renders its tables."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_preparation import pieces as data_pieces

from llqr_sam.engine.records.record import read_records
from llqr_sam.repository import CONF
from llqr_sam.studies.gpu_window.step_list import StepList
from tests.processes import start, without
from tests.waiting import wait_for

REPOSITORY = CONF.parent
SCRIPT = REPOSITORY / "scripts" / "gpu_window.py"
LIST = CONF / "gpu_window.yaml"
ABSENT = ("submitit", "wandb", "curvlinops", "pytorch_optimizer")
TINY = ["device=cpu", "precision=default", "dataset=digits", "arch=small_cnn", "protocol.epochs=1"]
TABLE = ["table.datasets=[digits]", "table.archs=[small_cnn]"]
COMMIT = "a" * 40


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The window in a folder of its own, in a Python that lacks some packages, as all that it starts does."""
    environment = without(folder / "hidden", *ABSENT, code=folder)
    environment.pop("LLQR_SAM_COMMIT", None)
    return start(str(folder / "scripts" / "gpu_window.py"), *words, cwd=folder, env=environment, stdout=None)


def window(folder: Path, *words: str) -> tuple[int, str]:
    """Its exit status, and what it said."""
    process = started(folder, *words)
    _, said = process.communicate()
    return process.returncode, said


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """The code in a folder without ``.git``, with what was carried there."""
    folder = tmp_path / "unpacked"
    for name in ("llqr_sam", "conf", "scripts", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder / name)
    (folder / "window").mkdir()
    (folder / "window" / "commit").write_text(f"{COMMIT}\n")
    return folder


@pytest.mark.slow
def test_its_archive_gives_the_tables_on_another_checkout(unpacked, tmp_path):
    status, said = window(unpacked, *TINY, *TABLE, "parts=1,3,6")
    archive = unpacked / "gpu_window.tar.gz"
    assert status == 1, said
    assert "failed: throughput_" in said, "one epoch is too few for a throughput: the other steps go on"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["tar", "-xzf", archive, "-C", elsewhere], check=True)  # Python 3.11.2 has no filter= of extractall
    records, damaged = read_records(elsewhere / "results" / "runs" / "epochs_30")
    assert not damaged
    assert {record.config["optim"]["name"] for record in records} == {"sgdm", "sam", "llqr_sam"}
    assert {record.git_commit for record in records} == {COMMIT}
    assert len(list((elsewhere / "results" / "bench").glob("machine-*.txt"))) == 1
    assert len(list((elsewhere / "window" / "logs").glob("*/log.txt"))) == 3
    assert archive.stat().st_size < 2**20
    rendered = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "render_tables.py"), "table=epochs_30", *TINY, *TABLE],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert rendered.returncode == 0, rendered.stderr
    table = (elsewhere / "results" / "tables" / "epochs_30.md").read_text()
    assert "3 of 3 runs finished" in table
    assert "Table 2" not in table
    before = {path: path.stat().st_mtime_ns for path in (unpacked / "results").rglob("*.json")}
    status, said = window(unpacked, *TINY, *TABLE, "parts=1,6")
    assert (status, said) == (0, ""), "nothing is left"
    assert {path: path.stat().st_mtime_ns for path in (unpacked / "results").rglob("*.json")} == before


@pytest.mark.slow
def test_killed_in_the_middle_it_loses_the_step_in_hand_and_goes_on(unpacked):
    words = [*TINY[:-1], "protocol.epochs=5", *TABLE, "parts=5"]
    runs = unpacked / "results" / "runs" / "epochs_15"
    process = started(unpacked, *words)
    try:
        wait_for(lambda: list(runs.glob("*.json")))
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    survived = {path: path.read_bytes() for path in runs.glob("*.json")}
    status, said = window(unpacked, *words)
    assert status == 0, said
    assert len(list(runs.glob("*.json"))) == 6
    assert {path: path.read_bytes() for path in survived} == survived


def test_pieces_of_a_data_set_come_in_two_calls(tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(0)
    arrays = {f"x_{part}": random.integers(0, 256, (size, 32, 32, 3), np.uint8) for part, size in _SIZES.items()}
    arrays |= {f"y_{part}": random.integers(0, 100, size) for part, size in _SIZES.items()}
    np.savez(tmp_path / "whole.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data_pieces, "PIECE", 100)
    labels, *pieces = data_pieces.split(tmp_path / "whole.npz", tmp_path / "all")
    script = runpy.run_path(str(SCRIPT))
    for names in (("train_1", "test_0"), ("train_0",)):
        shutil.rmtree("window", ignore_errors=True)
        Path("window/pieces/cifar100").mkdir(parents=True)
        for file in (labels, *(piece for piece in pieces if piece.stem in names)):
            shutil.copy(file, "window/pieces/cifar100")
        script["take_data"](Path("data"))
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" has ")[2] for line in said] == [
        "50 of 150 training images and 30 of 30 test images",
        "150 of 150 training images and 30 of 30 test images",
    ]
    with np.load("data/cifar100.npz") as joined:
        assert all(np.array_equal(joined[name], arrays[name]) for name in arrays)
    Path("window/pieces/cifar100/train_0.webp").write_text("damaged")
    script["take_data"](Path("data"))
    assert "failed: the pieces of cifar100: " in capsys.readouterr().err


def test_the_archive_has_results_and_the_logs_of_runs(tmp_path):
    """And nothing of what is large or unfinished: checkpoints, files that are being written."""
    script = runpy.run_path(str(SCRIPT))
    kept = {
        "results/runs/epochs_15/a.json": "results/runs/epochs_15/a.json",
        "results/bench/tests-cpu.txt.part": "results/bench/tests-cpu.txt.part",
        "results/timings/vit.json": "results/timings/vit.json",
        "work/a/log.txt": "window/logs/a/log.txt",
        "work/a/failure.json": "window/logs/a/failure.json",
    }
    for name in (*kept, "results/runs/epochs_15/b.json.7.tmp", "results/paper/table_02.csv", "work/a/checkpoint.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    archive = tmp_path / "out" / "all.tar.gz"
    for _ in range(2):
        script["pack"](archive, script["made_here"](tmp_path / "results", tmp_path / "work"))
    with tarfile.open(archive) as tar:
        held = {name: file.read().decode() for name in tar.getnames() if (file := tar.extractfile(name))}
    assert held == {name: content for content, name in kept.items()}
    assert [path.name for path in archive.parent.iterdir()] == ["all.tar.gz"]


_SIZES = {"train": 150, "test": 30}


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("minuts=3", "error: unknown key minuts. Keys here: arch, archive, "),
        ("parts=9", "error: parts=9 is not possible: the list has parts 1 to 7."),
        ("archive=/dev/null/a.tar.gz", "error: archive=/dev/null/a.tar.gz cannot be written: "),
    ],
)
def test_a_mistake_is_one_line_and_status_2(word, line, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "device=cpu", "precision=default", word])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    output = capsys.readouterr()
    assert (ended.value.code, output.out) == (2, "")
    assert output.err.startswith(line)
    assert output.err.count("\n") == 1


def test_each_gpu_test_is_in_one_of_its_two_parts():
    """Those that compile apart from the others, each file by its name."""
    tests = (REPOSITORY / "tests").rglob("test_*.py")
    marked = {path for path in tests if re.search(r"pytest\.mark\.gpu", path.read_text())}
    commands = [
        step.command for part in StepList(LIST, ["device=cpu"]).parts for step in part.steps if "gpu_tests" in step.name
    ]
    named = [{REPOSITORY / word for word in command if word.startswith("tests/")} for command in commands]
    assert named[0] | named[1] == marked
    plain, compiled = (command[command.index("-k") + 1] for command in commands)
    assert plain == f"not ({compiled})"


def test_it_is_shown_and_not_begun(monkeypatch, capsys, tmp_path):
    """Without a GPU, which its precision needs to begin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "device=cpu", "dry_run=true"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    output = capsys.readouterr()
    assert (ended.value.code, output.err) == (0, "")
    assert output.out.count("optim=") == 9
    assert not list(tmp_path.iterdir())
