"""scripts/throughput.py, as it is typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "throughput.py"
TINY = ("device=cpu", "optim=sam", "arch.width=4")


def measure(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *TINY, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
    return done.stdout


@pytest.mark.slow
def test_it_says_how_fast_and_that_a_cpus_peak_is_not_known(tmp_path):
    lines = measure(tmp_path).splitlines()
    assert lines[0].startswith("digits-small_cnn-sam-s0-")
    assert float(lines[1].removesuffix(" training images a second, evaluation included")) > 0
    assert lines[2].endswith("not known of the device's dense bfloat16 peak")
    assert "second_pass" in lines[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("protocol.epochs=1",), "error: protocol.epochs=1 must be >= 2: the first epoch warms up."),
        (("devices=2",), "error: devices=2 has no use here: a throughput is that of one device."),
        (("dataset=cifar100", "paths.data=nowhere"), "error: dataset=cifar100 is not at nowhere/cifar100.npz"),
        (("dataset=multi30k",), "error: dataset=multi30k has no images to count a second."),
        (
            ("--time-kernels", "precision.compile=true"),
            "error: --time-kernels has no use without precision.compile=true precision.deterministic=true",
        ),
    ],
    ids=["epochs", "devices", "data", "text", "kernels"],
)
def test_a_mistake_is_one_line(tmp_path, words, line):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "device=cpu", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_it_profiles_steps(tmp_path):
    assert "aten::" in measure(tmp_path, "--profile")


@pytest.mark.slow
def test_it_measures_with_kernels_that_were_timed(tmp_path):
    """And says so; without the option it does not."""
    words = ("precision.compile=true", "precision.deterministic=true")
    said = "Inductor chose kernels by timing them"
    assert measure(tmp_path, *words, "--time-kernels").splitlines()[-1] == said
    assert said not in measure(tmp_path, *words)
