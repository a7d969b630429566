"""The sharp ring, runs on it by the suite's own classes, and what a survey finds (the numbers of docs/theory.md)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from llqr_sam import LLQR, Metric, SharpnessAware
from llqr_sam.studies.theory.potholes import landscape as ring
from llqr_sam.studies.theory.potholes.landscape import (
    FATES,
    METHODS,
    NOTHING,
    SHARPNESS,
    VERDICTS,
    Learning,
    Outcomes,
    Points,
    Setting,
    Survey,
    crest,
    half_squared,
    loss_at,
    outcomes,
    paired_paths,
    run_together,
    verdict,
)


def _hessian(theta):
    return torch.autograd.functional.hessian(lambda x: ring.loss_at(x.unsqueeze(0)).sum(), theta)


def _radial(values):
    return torch.tensor([[math.cos(0.7), math.sin(0.7)]], dtype=torch.float64) * torch.tensor(
        values
    ).double().unsqueeze(1)


def test_the_stated_formula():
    """L = a r^2 (1 - q)^2 / (2 (1 + c q)^2), q = (r / R)^2p, in any direction."""
    r = torch.linspace(0, 8, 33, dtype=torch.float64)
    q = (r / 5) ** 8
    expected = 0.05 * r.square() * (1 - q).square() / (1 + 0.2 * q).square()
    for angle in (0.0, 0.7, 2.0):
        assert torch.allclose(ring.loss_at(ring.polar(r.tolist(), [angle] * 33)), expected, atol=1e-13)


def test_curvatures_of_basin_and_ring():
    """a I at the origin; at |theta| = R, loss 0, 4 p^2 a / (1 + c)^2 along the radius and 0 across it: 44 times a."""
    assert torch.allclose(_hessian(torch.zeros(2).double()), 0.1 * torch.eye(2).double())
    at_ring = torch.linalg.eigvalsh(_hessian(ring.polar([5.0], [0.7])[0]))
    assert torch.allclose(at_ring, torch.tensor([0.0, ring.SHARPNESS]).double(), atol=1e-9)
    assert pytest.approx(44.4, abs=0.1) == ring.SHARPNESS / ring.FLAT
    assert float(ring.loss_at(ring.polar([5.0], [0.7]))) < 1e-28


def test_the_crest_separates_them():
    top = ring.crest()
    inside, crest, outside = ring.loss_at(ring.polar([top - 0.05, top, top + 0.05], [0.0] * 3))
    assert crest > inside
    assert crest > outside
    assert ring.crest() == pytest.approx(3.73, abs=0.01)


def _alone(method, setting, start, steps, learning, noise=None):
    """One run written out, with the plain global norm."""
    points = Points([start])
    learned: LLQR | None = learning.metric(points) if method in ("llqr", "llqr_sam") else None
    base = torch.optim.SGD(points.parameters(), lr=setting.eta)
    rho = setting.rho if "sam" in method else 0.0
    optimizer = SharpnessAware(base, rho=rho, probe=learned or Metric(), transport=learned or Metric())
    visited = [start]
    for step in range(steps):
        if learned:
            learned.refresh_if_due(NOTHING, None, half_squared)

        def closure(step=step):
            optimizer.zero_grad()
            loss = half_squared(points(NOTHING), None)
            if noise is not None:
                loss = loss + (noise[step] * points.theta[0]).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        visited.append(points.theta[0].detach().clone())
    return torch.stack(visited)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_runs_together_are_runs_alone(method):
    """Several settings and points in one optimizer and one LLQR, against each by itself, noise included."""
    settings = [Setting(0.3, 0.8), Setting(0.4, 0.3)]
    starts = [ring.polar([4.8, 5.2], [0.3, 1.0]), ring.polar([5.1], [2.0])]
    noise = 0.01 * torch.randn(12, 3, 2, dtype=torch.float64)
    learning = Learning(interval=2)
    together = run_together(method, settings, starts, 12, learning, list(noise))
    rows = [(settings[0], starts[0][:1]), (settings[0], starts[0][1:]), (settings[1], starts[1])]
    for i, (setting, start) in enumerate(rows):
        alone = _alone(method, setting, start, 12, learning, noise[:, i : i + 1])
        assert torch.allclose(together[:, i : i + 1], alone, rtol=0, atol=1e-9)


def test_dense_and_diagonal_learn_the_same_on_an_axis():
    """Where gradient and curvature lie on an axis there is nothing off the diagonal to learn."""
    start = ring.polar([5.2], [0.0])
    runs = [
        run_together("llqr_sam", [Setting(0.4, 1.0)], [start], 10, Learning(structure=structure))
        for structure in ("dense", "diagonal")
    ]
    assert torch.allclose(runs[0], runs[1], atol=1e-9)


def test_a_metric_learned_in_the_ring_sees_the_ring():
    """Against Assumption 4.1: twenty refreshes on the ring's wall bring U well below 1 along the radius."""
    points = Points([ring.polar([5.2], [0.0])])
    metric = Learning().metric(points)
    for _ in range(20):
        metric.refresh(NOTHING, None, half_squared)
    along, across = metric.named_factors()["theta.0"]["d"].flatten().tolist()
    assert along < 0.7
    assert across == pytest.approx(1.0, abs=1e-6)


def test_a_metric_learned_in_the_basin_is_its_average_geometry():
    """Assumption 4.1: 1 / a = 10 in both coordinates, and the points are where they were."""
    start = ring.polar([5.1, 4.9], [0.3, 2.0])
    points = Points([start])
    metric = Learning(history="basin").learn_in_the_basin(points)
    assert torch.allclose(metric.named_factors()["theta.0"]["d"].flatten(), torch.tensor(10.0).double(), rtol=0.02)
    assert torch.equal(points.everything(), start)


def test_a_diverging_run_does_not_stop_the_others():
    """A metric that cannot be refreshed stays as it was; with one run gone, the rest go on under the one they have."""
    starts = [ring.polar([5.1], [0.3]), ring.polar([5.1], [0.3])]
    settings = [Setting(0.3, 0.5), Setting(1e200, 0.5)]
    run = run_together("llqr_sam", settings, starts, 8)
    assert torch.isfinite(run[:, 0]).all()
    assert not torch.isfinite(run[-1, 1]).all()


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


@pytest.mark.slow
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
