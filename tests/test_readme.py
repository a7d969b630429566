"""The README is true: its commands exist and run, its Python runs, its choices are the real ones."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from llqr_sam.data import registry as data
from llqr_sam.methods.blocks.assembly import Structure
from llqr_sam.models import registry as models
from tests.waiting import PATIENCE

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """What the README's fences of a language hold."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _commands(program: str) -> list[list[str]]:
    words = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    return [line for line in words if line and line[0] == program]


def _example(command: list[str]) -> bool:
    return command[1].startswith("examples/")


@pytest.mark.slow
@pytest.mark.parametrize("command", [words for words in _commands("python") if not _example(words)], ids=" ".join)
def test_python_commands_run(command, tmp_path):
    """Each as printed, planned instead of trained, on results of its own."""
    is_training = command[1] == "train.py"
    extra = ["dry_run=true"] if is_training and "dry_run=true" not in command else []
    if is_training or command[1] == "scripts/render_tables.py":
        extra.append(f"paths.results={tmp_path}")
    run = subprocess.run(
        [sys.executable, *command[1:], *extra], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


def test_examples_are_all_named():
    """tests/test_examples.py runs them."""
    named = {words[1] for words in _commands("python") if _example(words)}
    assert named == {f"examples/{path.name}" for path in (REPOSITORY / "examples").glob("*.py")}


@pytest.mark.parametrize("command", _commands("make"), ids=" ".join)
def test_make_targets_exist(command):
    planned = subprocess.run(["make", "--dry-run", *command[1:]], cwd=REPOSITORY, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr


def test_make_help_lists_every_task():
    shown = subprocess.run(["make"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^\.PHONY: (\S+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert all(f"make {target} " in shown for target in targets)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code):
    exec(compile(code, "README.md", "exec"), {})


def _choices(key: str) -> set[str]:
    (row,) = re.findall(rf"^\| `{key}=`[^|]*\| (.*) \|$", README, re.MULTILINE)
    listed = re.sub(r"\(.*?\)|;.*", "", row)
    return {name.strip() for name in listed.split(",")}


def test_choices_are_the_real_ones():
    optims = {path.stem for path in (REPOSITORY / "conf" / "optim").glob("*.yaml")}
    assert _choices("optim") == optims
    assert _choices("dataset") == set(data.names())
    assert _choices("arch") == set(models.names())
    assert _choices("structure") == set(get_args(Structure))
    assert _choices("precision") == {path.stem for path in (REPOSITORY / "conf" / "precision").glob("*.yaml")}


def test_files_it_links_to_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (REPOSITORY / target).exists(), target
