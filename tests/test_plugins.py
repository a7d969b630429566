"""A package of the user adds parts, in every process that trains, and the record says which code took part."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llqr_sam.engine.records.record import read_record
from llqr_sam.repository import ROOT

PART = """\
from torch import nn
from llqr_sam.plugins import network

@network("two_layers")
def two_layers(classes, *, channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, 16), nn.ReLU(), nn.Linear(16, classes))
"""
TABLE = """\
number: mine
title: Two layers
words: [protocol.epochs=1]
datasets: [digits]
archs: [two_layers]
methods: [{optim: sgdm}]
seeds: [0]
output: ${paths.results}/mine
"""
WORDS = ("-cd", "my", "arch=two_layers", "optim=sgdm", "protocol.epochs=1", "logger=none", "device=cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a module, a package, and configuration files of the network."""
    (tmp_path / "my_parts.py").write_text(PART)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("from my_package import parts\n")
    (tmp_path / "my_package" / "parts.py").write_text(PART)
    for name, text in (("arch/two_layers", "name: two_layers\n"), ("table/mine", TABLE)):
        path = tmp_path / "my" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path


def python(folder: Path, *words: str, script: str = "train.py") -> subprocess.CompletedProcess[str]:
    """A script of the repository in a folder."""
    command = [sys.executable, str(ROOT / script), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", ["plugins=[my_parts]", "plugins=[my_package] launch=local", "plugins=[my_parts] devices=2"]
)
def test_the_processes_that_train_have_the_parts(more, folder):
    done = python(folder, *WORDS, *more.split())
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("results/runs/adhoc/digits-two_layers-sgdm-*.json")
    name = "my_package" if "my_package" in more else "my_parts"
    assert read_record(path).packages[name].startswith("sha256:")


@pytest.mark.slow
def test_scripts_and_hydras_own_launcher_have_the_parts(folder):
    done = python(folder, "-m", "hydra/launcher=submitit_local", "seed=0,1", *WORDS, "plugins=[my_parts]")
    assert done.returncode == 0, done.stderr
    words = ("-cd", "my", "table=mine", "plugins=[my_parts]")
    assert "1 finished" in python(folder, *words, script="scripts/render_tables.py").stdout
    stored = python(folder, "arch=two_layers", "dataset=digits", "plugins=[my_parts]", script="scripts/storage.py")
    assert stored.returncode == 0, stored.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "plugins=[mine] cannot be imported: it is neither installed nor in {folder}."),
        (
            "import nothing_here",
            "plugins=[mine] cannot be imported: ModuleNotFoundError: No module named 'nothing_here' (",
        ),
        ("1 / 0", "plugins=[mine] cannot be imported: ZeroDivisionError: division by zero (mine.py, line 1)."),
        ("def", "plugins=[mine] cannot be imported: invalid syntax (mine.py, line 1)."),
        (
            PART.replace("two_layers", "resnet18"),
            "plugins=[mine] cannot be imported: the network resnet18 exists already",
        ),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_sentence(text, sentence, tmp_path):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    done = python(tmp_path, "plugins=[mine]", "dry_run=true")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: " + sentence.format(folder=tmp_path))
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_no_file_names_code(folder):
    """Whatever it fills; and without the word nothing is imported."""
    (folder / "my" / "scale").mkdir()
    (folder / "my" / "scale" / "mini.yaml").write_text(
        "# @package _global_\nscale: {name: mini, title: x}\nplugins: [my_parts]"
    )
    done = python(folder, "-cd", "my", "scale=mini", "dry_run=true")
    assert done.returncode == 2
    said = "error: my/scale/mini.yaml: plugins=[my_parts] cannot be in a file, since configurations run no code"
    assert done.stderr.startswith(said)
    assert "arch=two_layers is not a network here" in python(folder, *WORDS, "dry_run=true").stderr


def in_fresh_python(folder: Path, code: str) -> str:
    """Standard output of code in a process of its own."""
    command = [sys.executable, "-c", f"from llqr_sam.engine import plugins\n{code}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_an_installed_package_is_found_by_its_entry_point(folder):
    """With its distribution's version, if it is in site-packages; this one is not."""
    described = folder / "my_package-1.2.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Name: my-package\nVersion: 1.2\n")
    (described / "entry_points.txt").write_text("[llqr_sam.plugins]\nparts = my_package.parts\n")
    code = (
        f"import sys; sys.path.append({str(folder)!r}); plugins.load({{}}); print(plugins.versions(), plugins.loaded())"
    )
    said = in_fresh_python(folder, code)
    assert "{'my_package.parts': 'sha256:" in said
    assert f"{{'my_package.parts': {str(folder)!r}}}" in said


def test_a_failed_plugin_fails_again_in_the_same_way(folder):
    """A second import would register again what the first one did."""
    (folder / "half.py").write_text(PART + "\nraise RuntimeError('half')\n")
    code = f"for _ in range(2):\n  try: plugins.load({{'half': {str(folder)!r}}})\n  except ValueError as e: print(e)"
    first, second = in_fresh_python(folder, code).splitlines()
    assert first == second == "plugins=[half] cannot be imported: RuntimeError: half (half.py, line 8)."


@pytest.mark.slow
def test_other_source_is_another_version(folder):
    code = f"plugins.load({{'my_package': {str(folder)!r}}}); print(plugins.versions())"
    before = in_fresh_python(folder, code)
    (folder / "my_package" / "parts.py").write_text(PART.replace("16", "17"))
    assert in_fresh_python(folder, code) != before
