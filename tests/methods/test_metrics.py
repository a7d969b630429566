"""Probe metrics: the authors' perturbations, norms, and what happens at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from llqr_sam import LLQR, Adaptive, FisherDiagonal, GradientNoise, Metric
from tests.golden_numbers import EMA, arrays, flatten, problem, unflatten

SAM = arrays("sam")


def _close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_sam_matches_the_authors():
    _close(flatten(Metric().probe(unflatten(SAM["grad_flat"]), 0.1)), SAM["base_sam_rho0.1"])


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac"])
@pytest.mark.parametrize("divergence", ["ngd", "newton"])
@pytest.mark.parametrize(("norm", "golden"), [("metric", "matrix_norm"), ("euclidean", "euclidean")])
def test_llqr_sam_matches_the_authors(divergence, structure, norm, golden):
    net, x, y = problem()
    metric = LLQR(net, divergence=divergence, structure=structure, ema=EMA[divergence])
    metric.refresh(x, y, nn.functional.nll_loss)
    eps = metric.probe(unflatten(SAM["grad_flat"]), 0.1, norm)
    _close(flatten(eps), SAM[f"llqr_sam_{divergence}_{structure}_{golden}_rho0.1"])


def test_fisher_sam_matches_the_authors():
    gradient = unflatten(SAM["grad_flat"])
    fisher = FisherDiagonal(eta=0.1)
    fisher.observe(gradient)
    _close(flatten(fisher.probe(gradient, 0.1)), SAM["fisher_sam_eta0.1_rho0.1"])


def test_asam_matches_the_authors():
    net, _, _ = problem()
    _close(flatten(Adaptive(net, eta=0.01).probe(unflatten(SAM["grad_flat"]), 0.5)), SAM["asam_eta0.01_rho0.5"])


def test_kims_form_tends_to_sam_as_eta_vanishes():
    gradient = {"w": torch.randn(50, dtype=torch.float64)}
    fisher = FisherDiagonal(eta=1e-12, form="kim")
    fisher.observe(gradient)
    torch.testing.assert_close(fisher.probe(gradient, 0.1)["w"], Metric().probe(gradient, 0.1)["w"])


@pytest.mark.parametrize("norm", ["metric", "euclidean"])
def test_radius_is_rho_in_the_chosen_norm(norm):
    gradient = {"w": torch.randn(50, dtype=torch.float64)}
    fisher = FisherDiagonal()
    fisher.observe(gradient)
    eps = fisher.probe(gradient, 0.3, norm)["w"]
    inverse = fisher.apply({"w": torch.ones(50, dtype=torch.float64)})["w"]
    size = (eps.square() / inverse).sum().sqrt() if norm == "metric" else eps.norm()
    assert float(size) == pytest.approx(0.3, rel=1e-9)


@pytest.mark.parametrize("norm", ["metric", "euclidean"])
def test_zero_gradient_gives_zero_and_is_no_fallback(norm):
    metric = Metric()
    assert metric.probe({"w": torch.zeros(3)}, 0.1, norm)["w"].eq(0).all()
    assert metric.fallbacks == 0


class Indefinite(Metric):
    """M = -I: v' M v is negative."""

    def apply(self, v):
        return {n: -x for n, x in v.items()}


def test_indefinite_metric_falls_back_to_the_euclidean_norm_and_counts():
    metric = Indefinite()
    eps = metric.probe({"w": torch.tensor([3.0, 4.0])}, 1.0)["w"]
    torch.testing.assert_close(eps, torch.tensor([-0.6, -0.8]))
    metric.probe({"w": torch.tensor([3.0, 4.0])}, 1.0)
    assert metric.fallbacks == 2


def test_noisy_coordinates_move_less():
    """infoSAM, our reading: of two coordinates with one mean, the noisier is perturbed less."""
    noise = GradientNoise(decay=0.9, delta=1e-4)
    for sign in (1.0, -1.0) * 20:
        noise.observe({"w": torch.tensor([1.0, 1.0 + sign])})
    eps = noise.probe({"w": torch.tensor([1.0, 1.0])}, 0.1)["w"]
    assert eps[0] > 10 * eps[1] > 0


def test_info_sam_by_hand():
    """Two steps: eps = rho D v / |D v| with D = 1 / (s + delta), whatever the direction v."""
    decay, delta, rho = 0.8, 1e-4, 0.3
    noise = GradientNoise(decay, delta)
    first, second = torch.tensor([[1.0, -2.0, 0.5], [1.1, 3.0, 0.5]], dtype=torch.float64)
    noise.observe({"w": first})
    noise.observe({"w": second})
    mean = decay * first + (1 - decay) * second
    d = 1 / ((1 - decay) * (second - mean).square() + delta)
    v = torch.tensor([0.2, 1.0, -1.0], dtype=torch.float64)
    eps = noise.probe({"w": v}, rho)["w"]
    torch.testing.assert_close(eps, rho * d * v / (d * v).norm(), rtol=1e-12, atol=0)
    assert float(eps.norm()) == pytest.approx(rho)
    metric = noise.probe({"w": v}, rho, "metric")["w"]
    torch.testing.assert_close(metric, rho * d * v / (v * d * v).sum().sqrt(), rtol=1e-12, atol=0)


def test_info_sam_does_not_depend_on_the_scale_of_the_gradient():
    """Its norm is a length in the parameters: gradients a thousand times larger give the same perturbation."""
    gradients = torch.randn(5, 20, dtype=torch.float64)

    def perturbation(scale):
        noise = GradientNoise(delta=1e-12 * scale**2)
        for g in gradients:
            noise.observe({"w": scale * g})
        return noise.probe({"w": scale * gradients[-1]}, 0.1)["w"]

    torch.testing.assert_close(perturbation(1000.0), perturbation(1.0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("build", [FisherDiagonal, lambda: FisherDiagonal(form="kim"), GradientNoise])
@pytest.mark.parametrize("scale", [1e-4, 300.0])
def test_half_precision_gradients_are_squared_in_single(build, scale):
    """float16 squares 1e-4 to nothing and 300 to infinity; eta and delta are taken to the same scale here."""
    half, single = build(), build()
    for metric in (half, single):
        for name in ("eta", "delta"):
            if hasattr(metric, name):
                setattr(metric, name, scale**2)
    for seed in range(4):
        g = scale * torch.randn(6, generator=torch.Generator().manual_seed(seed)).half()
        half.observe({"w": g})
        single.observe({"w": g.float()})
    v = {"w": torch.ones(6)}
    torch.testing.assert_close(half.apply(v), single.apply(v), rtol=1e-3, atol=0)


def test_gradient_noise_state_round_trips():
    first, second = GradientNoise(), GradientNoise()
    for _ in range(3):
        first.observe({"w": torch.randn(4)})
    second.load_state_dict(first.state_dict())
    gradient = {"w": torch.randn(4)}
    first.observe(gradient)
    second.observe(gradient)
    assert torch.equal(first.apply(gradient)["w"], second.apply(gradient)["w"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Metric().probe({"w": torch.ones(1)}, -0.1), "rho=-0.1 must be >= 0"),
        (lambda: Metric().probe({"w": torch.ones(1)}, math.nan), "rho=nan must be >= 0 and finite"),
        (lambda: Metric().probe({"w": torch.ones(1)}, 0.1, "max"), "norm=max is not known. Choose from: metric"),
        (lambda: FisherDiagonal(eta=0.0), "eta=0.0 must be > 0"),
        (lambda: FisherDiagonal(form="empirical"), "form=empirical is not known"),
        (lambda: Adaptive(nn.Linear(1, 1), eta=-1.0), "eta=-1.0 must be >= 0"),
        (lambda: GradientNoise(decay=1.0), r"decay=1.0 must be in \[0, 1\)"),
        (lambda: GradientNoise(delta=0.0), "delta=0.0 must be > 0"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
