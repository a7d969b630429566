"""What the survey counts, and what it finds (the numbers of docs/theory.md)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from llqr_sam.studies.theory.potholes.landscape import (
    FATES,
    METHODS,
    SHARPNESS,
    VERDICTS,
    Learning,
    Outcomes,
    Setting,
    Survey,
    crest,
    loss_at,
    outcomes,
    paired_paths,
    run_together,
    verdict,
)


def _straight(*radii):
    """A run along the x axis through these distances, then standing still long enough to end there."""
    x = torch.tensor([*radii, *[radii[-1]] * 25], dtype=torch.float64)
    return torch.stack([x, torch.zeros_like(x)], 1).unsqueeze(1)


@pytest.mark.parametrize(
    ("radii", "fate", "escape", "arrival", "to_flat", "path"),
    [
        ((5.0, 4.9, 5.0), "ring", -1, -1, math.nan, 0.2),
        ((5.0, 3.0, 3.7), "between", 1, -1, math.nan, 2.7),
        ((5.0, 5.5, 2.0, 0.5, 0.0), "flat", 2, 3, 5.5, 6.0),
        ((5.0, 9.0), "away", -1, -1, math.nan, 4.0),
        ((5.0, math.nan), "away", -1, -1, math.nan, math.nan),
    ],
)
def test_outcomes(radii, fate, escape, arrival, to_flat, path):
    found = outcomes(_straight(*radii))
    assert FATES[int(found.fate)] == fate
    assert (int(found.escape), int(found.arrival)) == (escape, arrival)
    assert float(found.path_to_flat) == pytest.approx(to_flat, nan_ok=True)
    assert float(found.path) == pytest.approx(path, nan_ok=True)


def _ends(fate, path=5.0, runs=4):
    arrives = fate == "flat"
    to_flat = torch.full((runs,), path if arrives else math.nan)
    steps = torch.full((runs,), 3 if arrives else -1)
    return Outcomes(torch.full((runs,), FATES.index(fate)), steps, steps, to_flat, torch.full((runs,), path))


@pytest.mark.parametrize(
    ("gd", "llqr", "sam", "llqr_sam", "expected"),
    [
        ("ring", "ring", ("flat", 5.0), ("flat", 4.9), "holds"),
        ("ring", "ring", ("flat", 5.0), ("flat", 4.99), "no shorter"),
        ("ring", "ring", ("flat", 5.0), ("between", 5.0), "SAM only"),
        ("ring", "ring", ("ring", 5.0), ("flat", 5.0), "LLQR+SAM only"),
        ("ring", "ring", ("ring", 5.0), ("between", 5.0), "between"),
        ("ring", "ring", ("ring", 5.0), ("ring", 5.0), "trapped"),
        ("flat", "ring", ("flat", 5.0), ("flat", 4.0), "without SAM"),
        ("ring", "between", ("flat", 5.0), ("flat", 4.0), "without SAM"),
    ],
)
def test_verdict(gd, llqr, sam, llqr_sam, expected):
    by_method = dict(zip(METHODS, (_ends(gd), _ends(llqr), _ends(*sam), _ends(*llqr_sam)), strict=True))
    assert verdict(by_method) == expected
    assert expected in VERDICTS


def test_paths_are_compared_where_both_arrive():
    sam, llqr_sam = _ends("flat", 5.0), _ends("flat", 4.0)
    sam = replace(sam, arrival=torch.tensor([3, -1, 3, 3]))
    llqr_sam = replace(llqr_sam, arrival=torch.tensor([3, 3, 3, -1]))
    theirs, ours = paired_paths({"sam": sam, "llqr_sam": llqr_sam})
    assert (theirs.tolist(), ours.tolist()) == ([5.0, 5.0], [4.0, 4.0])


def test_starts_are_in_the_ring_and_not_minima():
    survey = Survey()
    loss = loss_at(survey.starts())
    assert (loss > 1e-3).all()
    assert (loss < 0.2).all()
    assert float(loss_at(survey.bottom())) < 1e-28


def test_noise_is_one_schedule_scaled():
    """On the first step of GD from the bottom theta moves by -eta xi: the same xi for all variances and methods."""
    survey, setting = Survey(steps=1), Setting(0.1, 1.0)
    moves = {
        method: survey.noisy(method, [setting], [1e-4, 1e-2], 3)[0].diff(dim=0)[0, 0]
        for method in ("gd", "llqr", "sam")
    }
    assert torch.allclose(10 * moves["gd"][0], moves["gd"][1], atol=1e-12)
    assert torch.allclose(moves["gd"], moves["llqr"], atol=1e-12)
    assert not torch.allclose(moves["gd"], moves["sam"])


def test_a_grid_runs_methods_without_a_probe_once_a_rate():
    survey = Survey(steps=3)
    found = survey.grid("gd", [0.1, 0.2], [0.3, 0.5])
    assert len(found) == 4
    assert found[Setting(0.1, 0.3)] is found[Setting(0.1, 0.5)]


@pytest.mark.parametrize(
    ("method", "learning", "factor", "rho", "distance"),
    [
        ("sam", Learning(), 0.9, 0.45, crest()),
        ("llqr_sam", Learning(), 0.9, 0.45, crest()),
        ("sam", Learning(), 1.6, 1.3, 5 - 1.3),
        ("llqr_sam", Learning(history="basin"), 0.05, 0.8, 5 - 0.8 * 10**0.5),
    ],
)
def test_sams_false_ends(method, learning, factor, rho, distance):
    """Runs leave the ring and stop: on the crest, or a probe's length (rho sqrt(U)) from the bottom of the ring."""
    survey = Survey(learning=learning, steps=150)
    run = survey.trajectories(method, [Setting(factor / SHARPNESS, rho)], survey.starts())
    found = outcomes(run)
    assert found.share("between") == 1
    end = torch.linalg.vector_norm(run[-20:], dim=2).mean(0)
    assert torch.allclose(end, torch.tensor(distance, dtype=torch.float64), atol=0.05)


def test_with_the_average_geometry_llqr_sam_leaves_where_sam_stays():
    """Assumption 4.1 met: at eta lambda = 0.17, rho = 0.15 only LLQR+SAM leaves; SAM stays at five times that rho."""
    survey = Survey(learning=Learning(history="basin"))
    found = {m: survey.grid(m, [0.17 / SHARPNESS], [0.15, 0.8]) for m in METHODS}
    by_rho = {rho: {m: found[m][Setting(0.17 / SHARPNESS, rho)] for m in METHODS} for rho in (0.15, 0.8)}
    assert verdict(by_rho[0.15]) == "LLQR+SAM only"
    assert by_rho[0.8]["sam"].share("ring") == 1


@pytest.mark.slow
def test_the_ordering_and_where_its_shorter_path_comes_from():
    """Figure 2's setting: GD and LLQR stay, the other two arrive, LLQR+SAM in 11 % less path and fewer steps.

    Its path is the shorter, the more the metric has learned of the ring (smaller beta).
    """
    setting = Setting(1.8 / SHARPNESS, 1.0)
    paths = {}
    for ema in (0.95, 0.8, 0.5):
        survey = Survey(steps=60, learning=Learning(ema=ema))
        found = {m: survey.grid(m, [setting.eta], [setting.rho])[setting] for m in METHODS}
        assert verdict(found) == "holds"
        paths[ema] = float(found["llqr_sam"].path_to_flat.mean())
        sam = float(found["sam"].path_to_flat.mean())
        if ema == 0.95:
            assert found["llqr_sam"].arrival.double().mean() < found["sam"].arrival.double().mean()
    assert paths[0.95] / sam == pytest.approx(0.89, abs=0.02)
    assert paths[0.5] < paths[0.8] < paths[0.95] < sam


@pytest.mark.slow
@pytest.mark.parametrize(
    "learning", [Learning(structure="dense"), Learning(divergence="newton"), Learning(interval=50)]
)
def test_the_ordering_under_other_ways_to_learn(learning):
    """The same verdict and path within 2 % with dense blocks, the Newton divergence or one refresh."""
    setting = Setting(1.8 / SHARPNESS, 1.0)
    starts = [start.unsqueeze(0) for start in Survey().starts()]
    run = run_together("llqr_sam", [setting] * len(starts), starts, 45, learning)
    found = outcomes(run)
    assert found.share("flat") == 1
    assert float(found.path_to_flat.mean()) == pytest.approx(6.88, rel=0.02)


@pytest.mark.slow
def test_from_the_bottom_under_noise():
    """Figure 3's setting at variance 1e-9: GD and LLQR stay, the pair leaves within five steps, some only to the crest.

    Where both arrive LLQR+SAM's path is shorter by 5 %.
    """
    survey, setting = Survey(steps=100), Setting(1.8 / SHARPNESS, 1.0)
    found = {m: survey.noisy(m, [setting], [1e-9], 100)[1][setting, 1e-9] for m in METHODS}
    assert found["gd"].share("ring") == found["llqr"].share("ring") == 1
    for method in ("sam", "llqr_sam"):
        assert found[method].escape.double().mean() < 5
        assert 0.5 < found[method].share("flat") < 0.95
        assert found[method].share("flat") + found[method].share("between") == pytest.approx(1)
    theirs, ours = paired_paths(found)
    assert float(ours.mean() / theirs.mean()) == pytest.approx(0.95, abs=0.03)
