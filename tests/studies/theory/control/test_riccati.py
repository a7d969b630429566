"""The Riccati recursion against dense solves and the authors' exact steps."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from llqr_sam import LLQR
from llqr_sam.methods.curvature.likelihoods import Categorical
from llqr_sam.methods.curvature.point import point_of
from llqr_sam.methods.curvature.products import Fisher, Hessian
from llqr_sam.methods.named import dot
from llqr_sam.studies.theory.control.riccati import riccati
from llqr_sam.studies.theory.control.rollout import adjoint, rollout
from llqr_sam.studies.theory.control.stages import layerwise_lqr
from tests.golden_numbers import arrays, flatten, problem
from tests.studies.theory.control.networks import CHAINS, mean_loss


def _dense_step(net, x, y, divergence, damping):
    """-(H + damping I)^-1 g, H column by column from curvature products."""
    if divergence == "newton":
        curvature = Hessian("for comparison").at(point_of(net, x, y, mean_loss))
    else:
        curvature = Fisher(Categorical(), "sum").at(point_of(net, x, y, mean_loss))
    shapes = {n: p.shape for n, p in net.named_parameters()}
    size = sum(shape.numel() for shape in shapes.values())

    def named(vector):
        pieces = vector.split([shape.numel() for shape in shapes.values()])
        return {n: piece.view(shape) for (n, shape), piece in zip(shapes.items(), pieces, strict=True)}

    def flat(vector):
        return torch.cat([vector[n].reshape(-1) for n in shapes])

    H = torch.stack([flat(curvature.product(named(e))) for e in torch.eye(size, dtype=torch.float64)])
    return named(torch.linalg.solve(H + damping * torch.eye(size).double(), -flat(curvature.gradient)))


def _assert_same(actual, expected, tolerance=1e-9):
    assert actual.keys() == expected.keys()
    error = {n: actual[n] - expected[n] for n in expected}
    assert dot(error, error).sqrt() <= tolerance * dot(expected, expected).sqrt()


@pytest.mark.parametrize("name", list(CHAINS))
@pytest.mark.parametrize("damping", [0.01, 1.0])
@pytest.mark.parametrize("divergence", ["ngd", "newton"])
def test_equals_the_dense_solve(name, divergence, damping):
    net, x, y = CHAINS[name]()
    exact = riccati(layerwise_lqr(net, x, y, mean_loss, divergence=divergence, damping=damping))
    _assert_same(exact, _dense_step(net, x, y, divergence, damping))


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_dense_solve_on_random_networks(seed):
    """Random depth, widths, activations, minibatch, divergence and damping."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    widths = [draw(2, 6) for _ in range(draw(3, 6))]
    activations = [nn.ReLU(), nn.GELU(), nn.Tanh(), nn.Sigmoid()]
    layers = [nn.Sequential(nn.Linear(m, n), activations[draw(0, 4)]) for m, n in pairwise(widths)]
    net = nn.Sequential(*layers).double()
    x = torch.randn(draw(1, 9), widths[0], generator=generator).double()
    y = torch.randint(0, widths[-1], (len(x),), generator=generator)
    divergence, damping = ["ngd", "newton"][seed % 2], 10.0 ** -draw(0, 3)
    exact = riccati(layerwise_lqr(net, x, y, mean_loss, divergence=divergence, damping=damping))
    _assert_same(exact, _dense_step(net, x, y, divergence, damping))


@pytest.mark.parametrize("damping", ["0.01", "1.0"])
@pytest.mark.parametrize("divergence", ["ngd", "newton"])
def test_equals_the_authors_exact_steps(divergence, damping):
    """Both their dense solves and their own Riccati recursion with exact inner solves; their step is -dtheta."""
    golden = arrays("exact_f64")
    net, x, y = problem()
    lqr = layerwise_lqr(net, x, y, nn.functional.nll_loss, divergence=divergence, damping=float(damping))
    step = -flatten(riccati(lqr))
    dense = golden[f"dense_{'newton' if divergence == 'newton' else 'ngd_sum'}_damp{damping}"]
    theirs = golden[f"lqr_densesolve_{divergence}_damp{damping}"]
    assert (step - dense).norm() <= 1e-9 * dense.norm()
    assert (step - theirs).norm() <= 1e-9 * theirs.norm()


def test_equals_the_authors_mean_reduced_dense_step():
    net, x, y = problem()
    lqr = layerwise_lqr(net, x, y, nn.functional.nll_loss, reduction="mean", damping=0.01)
    expected = arrays("exact_f64")["dense_ngd_mean_damp0.01"]
    assert (flatten(riccati(lqr)) + expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("divergence", ["ngd", "newton"])
def test_the_solution_is_stationary(divergence):
    """The adjoint gradient vanishes there, and J = g'd/2."""
    lqr = layerwise_lqr(*CHAINS["conv"](), mean_loss, divergence=divergence, damping=0.1)
    delta = riccati(lqr)
    trajectory = rollout(lqr, delta)
    g, c = lqr.gradient(), adjoint(lqr, trajectory)
    assert dot(c, c).sqrt() <= 1e-10 * dot(g, g).sqrt()
    torch.testing.assert_close(trajectory.cost, 0.5 * dot(g, delta), rtol=1e-9, atol=0)


def test_without_damping_a_singular_stage_is_named():
    """Inputs of zero: B'KB is zero, and so is R."""
    net = nn.Sequential(nn.Linear(6, 2, bias=False)).double()
    lqr = layerwise_lqr(net, torch.zeros(3, 6).double(), torch.tensor([0, 1, 0]), mean_loss)
    with pytest.raises(ValueError, match="singular for the stage of 0.weight: damping must be > 0"):
        riccati(lqr)


@pytest.mark.parametrize("divergence", ["ngd", "newton"])
def test_a_dense_metric_learns_the_exact_step(divergence):
    """LLQR on two layers, dense blocks, trained long enough: U g is the Riccati recursion's step."""
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False)).double()
    x, y = torch.randn(20, 3).double(), torch.randint(0, 3, (20,))
    options = {"divergence": divergence, "reduction": "mean", "damping": 0.5}
    metric = LLQR(net, structure="dense", inner_steps=600, inner_lr=10.0, clip_norm=1e9, ema=0.0, **options)
    metric.refresh(x, y, mean_loss)
    lqr = layerwise_lqr(net, x, y, mean_loss, **options)
    learned = {n: -u for n, u in metric.apply(lqr.gradient()).items()}
    _assert_same(learned, riccati(lqr))
