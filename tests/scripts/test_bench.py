"""scripts/bench.py, as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from llqr_sam.studies.table_10.timing import Problem

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench.py"
TINY = ("--width", "4", "--batch", "4", "--inner-steps", "2", "--rounds", "1", "--device", "cpu")


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_row_is_a_ratio_to_one_gradient_evaluation():
    done = bench(*TINY, "--structures", "diagonal", "--divergences", "ngd", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    unit = rows[0]
    assert unit["gradients"] == 1
    assert any(row["row"].startswith("refresh, ngd, diagonal") for row in rows)
    for row in rows:
        assert row["gradients"] > 0
        # one round: the ratio of the medians is the median of the ratios
        assert row["gradients"] == pytest.approx(row["milliseconds"] / unit["milliseconds"])


def test_parts_of_a_refresh_are_timed_when_their_kernels_are_done(monkeypatch):
    """Both ends of each: the whole, the linearisation and at least a curvature product an inner step."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from benchmarks.parts import parts

    problem = Problem(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (2, 1, 2, 2), 3, torch.device("cpu"))
    problem.device, waited = torch.device("cuda"), list[torch.device]()
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    seconds = parts(problem, "diagonal", "ngd", inner_steps=2)
    assert len(waited) >= 2 * (1 + 1 + 2)
    assert sum(share for part, share in seconds.items() if part != "whole") == pytest.approx(seconds["whole"])
    assert min(seconds.values()) >= 0


def test_a_part_within_a_part_counts_once(monkeypatch):
    """Each call of the inner method takes a second, the outer one two more."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from benchmarks import parts as module

    now = 0.0
    monkeypatch.setattr(module, "clock", lambda device: now)

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    times = module.PartTimes(torch.device("cpu"))
    inner = times.timed(lambda: spend(1.0), "inner")
    outer = times.timed(lambda: (inner(), spend(2.0), inner()), "outer")
    outer()
    inner()
    assert times.seconds == {"inner": 3.0, "outer": 2.0}


def test_tf32_is_emulated_in_products_alone(monkeypatch):
    """Ten bits of mantissa, the nearest ones, in what is multiplied; the rest stays as it is."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from benchmarks.precision import RoundedProducts, rounded

    x, y = torch.randn(2, 40, 40)
    assert torch.equal(rounded(rounded(x)), rounded(x))
    assert 2**-12 < float(((rounded(x) - x) / x).abs().max()) <= 2**-11
    assert torch.equal(rounded(x.bfloat16().float()), x.bfloat16().float())
    with RoundedProducts():
        assert torch.equal(x @ y, rounded(x) @ rounded(y))
        assert torch.equal(x * y + x, (x * y).add(x))
    assert not torch.equal(x @ y, rounded(x) @ rounded(y))


def test_rounding_is_held_against_another_minibatch(monkeypatch):
    """U learned on the digits, where equal pixels tie in max-pooling and any rounding decides."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from benchmarks.precision import Trained, effects

    trained = Trained(None, batch=32, steps=20, device=torch.device("cpu"))
    found = effects(trained, "kfac", "ngd", inner_steps=5)
    assert 0 < max(found["tf32"], found["bfloat16"]) < found["another minibatch"] / 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        (("--arch", "resnet19"), "arch=resnet19"),
        (("--arch", "vit_base"), "arch=vit_base takes images of side"),
        (("--device", "tpu"), "device=tpu is not a device here"),
        (("--structures", "kfac,diag"), "diag: choose from diagonal, kfac"),
        (("--study", "scaling", "--sweeps", "height"), "height: choose from batch, width"),
    ],
    ids=["arch", "side", "device", "structure", "sweep"],
)
def test_a_mistake_is_one_line_that_names_it(options, phrase):
    done = bench(*options)
    assert done.returncode == 2
    assert phrase in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_step_beside_small_parameters_is_a_ratio_to_its_gradients():
    done = bench("--study", "overhead", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    title, figures = json.loads(done.stdout).values()
    assert "200 parameters" not in title
    assert figures[0]["ratio"] == 1
    assert [row["row"] for row in figures[1:]] == [
        "SAM step",
        "SAM step, model=",
        "SAM in two steps",
        "SAM step, same_randomness=True",
    ]
    assert all(row["ratio"] > 0 for row in figures)
