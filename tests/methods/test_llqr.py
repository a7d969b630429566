"""LLQR: the authors' numbers step for step, and the properties a refresh must have."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from llqr_sam import LLQR, RefreshError, SharpnessAware
from llqr_sam.methods.llqr import MAX_FAILURES
from tests.golden_numbers import EMA, FILE_OF_STRUCTURE, arrays, flatten, in_golden_layout, problem, unflatten
from tests.methods.networks import NETWORKS, mean_loss

STRUCTURES = ["diagonal", "kfac", "ekfac", "diag_kfac", "dense"]
DIVERGENCES = ["ngd", "newton"]


def _close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("structure", list(FILE_OF_STRUCTURE))
@pytest.mark.parametrize(
    ("inner_steps", "divergence"),
    [
        (1, "ngd"),
        (10, "ngd"),
        (50, "ngd"),
        (10, "newton"),
        *(pytest.param(steps, "newton", marks=pytest.mark.slow) for steps in (1, 50)),
    ],
)
def test_inner_loop_matches_the_authors(divergence, structure, inner_steps):
    """J at the start and U after 1, 10 and 50 steps, from the identity and warm-started from the averaged U."""
    golden = arrays(f"mlp_{divergence}_{FILE_OF_STRUCTURE[structure]}")
    net, x, y = problem()
    averaged = LLQR(net, divergence=divergence, structure=structure, ema=EMA[divergence])
    for refresh in ("r1", "r2"):
        metric = LLQR(net, divergence=divergence, structure=structure, inner_steps=inner_steps, ema=0.0)
        metric.load_state_dict(averaged.state_dict())
        report = metric.refresh(x, y, nn.functional.nll_loss)
        assert report.objective_before == pytest.approx(float(golden[f"{refresh}.J"]), rel=1e-9)
        for name, factor in in_golden_layout(metric.named_factors(), structure).items():
            _close(factor, golden[f"{refresh}.U{inner_steps}.{name}"])
        averaged.refresh(x, y, nn.functional.nll_loss)


@pytest.mark.parametrize("structure", list(FILE_OF_STRUCTURE))
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_averaged_metric_matches_the_authors(divergence, structure):
    golden = arrays(f"mlp_{divergence}_{FILE_OF_STRUCTURE[structure]}")
    net, x, y = problem()
    metric = LLQR(net, divergence=divergence, structure=structure, ema=EMA[divergence])
    gradient = unflatten(arrays("mlp_base")["grad_flat"])
    for refresh in ("r1", "r2"):
        metric.refresh(x, y, nn.functional.nll_loss)
        for name, factor in in_golden_layout(metric.named_factors(), structure).items():
            _close(factor, golden[f"{refresh}.EMA.{name}"])
        _close(flatten(metric.apply(gradient)), golden[f"{refresh}.Ug_flat"])


def test_scales_that_turn_negative_match_the_authors():
    """Only structure diagonal keeps its scales at 1e-8 or above; beside kernels those of biases pass through zero."""
    golden = arrays("mlphot_newton_diagkfac")
    net, x, y = problem("mlphot")
    metric = LLQR(net, divergence="newton", structure="diag_kfac", inner_lr=1e-2, ema=EMA["newton"])
    nn.functional.nll_loss(net(x), y).backward()
    gradient = {name: p.grad for name, p in net.named_parameters()}
    negative = False
    for refresh in ("r1", "r2"):
        report = metric.refresh(x, y, nn.functional.nll_loss)
        assert report.objective_before == pytest.approx(float(golden[f"{refresh}.J"]), rel=1e-9)
        for name, factor in in_golden_layout(metric.named_factors(), "diag_kfac").items():
            _close(factor, golden[f"{refresh}.EMA.{name}"])
            negative |= "bias" in name and bool((factor < 0).any())
        _close(flatten(metric.apply(gradient)), golden[f"{refresh}.Ug_flat"])
    assert negative, "the case is there to be met"


@pytest.mark.parametrize("structure", list(FILE_OF_STRUCTURE))
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_two_hot_refreshes_are_the_definition(divergence, structure):
    """J and its gradient written out with the dense H, by autograd over the factors; the clip always active."""
    net, x, y = problem("mlphot")
    metric = LLQR(net, divergence=divergence, structure=structure, inner_lr=1e-2, inner_steps=20, ema=0.5)
    point = metric._curvature.at(x, y, nn.functional.nll_loss)
    g = {name: t.detach() for name, t in point.gradient.items()}
    basis = torch.eye(sum(t.numel() for t in g.values()), dtype=torch.float64)
    split = [t.numel() for t in g.values()]

    def product(row):
        v = {name: part.view(t.shape) for part, (name, t) in zip(row.split(split), g.items(), strict=True)}
        return torch.cat([t.flatten() for t in point.product(v).values()])

    h = torch.stack([product(row) for row in basis])
    flat = torch.cat([t.flatten() for t in g.values()])
    reference = {n: {k: f.clone() for k, f in fs.items()} for n, fs in metric.named_factors().items()}

    def apply(factors):
        out = []
        for name, t in g.items():
            f = factors[name]
            if "d" in f:
                out.append(f["d"] * t)
            elif structure == "kfac":
                out.append(f["B"][0] @ t @ f["A"][0].T)
            elif structure == "diag_kfac":
                out.append(f["b"][0][:, None] * t * f["a"][0])
            else:
                qa, qb, d = f["Q_A"][0], f["Q_B"][0], f["D"][0]
                out.append(qb @ (d * (qb.T @ t @ qa)) @ qa.T)
        return torch.cat([x.flatten() for x in out])

    for _ in range(2):
        learned = {n: {k: f.clone().requires_grad_() for k, f in fs.items()} for n, fs in reference.items()}
        leaves = [(n, k) for n, fs in learned.items() for k in fs]
        buffers = {leaf: torch.zeros_like(learned[leaf[0]][leaf[1]]) for leaf in leaves}
        for _ in range(20):
            delta = -apply(learned)
            gradients = torch.autograd.grad(flat @ delta + 0.5 * delta @ h @ delta, [learned[n][k] for n, k in leaves])
            together = {leaf: leaf[0].split(".")[0] if structure == "diagonal" else leaf for leaf in leaves}
            norms: dict = {}
            for leaf, gradient in zip(leaves, gradients, strict=True):
                norms[together[leaf]] = norms.get(together[leaf], 0.0) + float(gradient.square().sum())
            for leaf, gradient in zip(leaves, gradients, strict=True):
                clipped = gradient * 5 / max(5.0, norms[together[leaf]] ** 0.5)
                buffers[leaf] = 0.9 * buffers[leaf] + clipped
                learned[leaf[0]][leaf[1]].data -= 1e-2 * buffers[leaf]
        for n, k in leaves:
            reference[n][k] = 0.5 * reference[n][k] + 0.5 * learned[n][k].detach()
            if structure == "diagonal":
                reference[n][k].clamp_min_(1e-8)
        metric.refresh(x, y, nn.functional.nll_loss)
        for n, fs in metric.named_factors().items():
            for k, f in fs.items():
                torch.testing.assert_close(f, reference[n][k], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("structure", list(FILE_OF_STRUCTURE))
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_first_step_is_the_authors_gradient(divergence, structure):
    """One unclipped step from a zero momentum moves U by exactly -rate * dJ/dU."""
    golden = arrays(f"mlp_{divergence}_{FILE_OF_STRUCTURE[structure]}")
    net, x, y = problem()
    metric = LLQR(net, divergence=divergence, structure=structure, inner_steps=1, clip_norm=1e9, ema=0.0)
    before = {n: f.clone() for n, f in in_golden_layout(metric.named_factors(), structure).items()}
    metric.refresh(x, y, nn.functional.nll_loss)
    for name, factor in in_golden_layout(metric.named_factors(), structure).items():
        _close((before[name] - factor) / 1e-3, golden[f"r1.dJ.{name}"])


@pytest.mark.slow
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", ["mlp", "conv", "transformer"])
def test_refresh_lowers_the_objective(name, divergence, structure):
    net, x, y = NETWORKS[name]()
    report = LLQR(net, divergence=divergence, structure=structure, ema=0.0, reduction="mean").refresh(x, y, mean_loss)
    assert report.accepted
    assert report.objective_after < report.objective_before
    assert report.relative_change > 0
    assert report.seconds > 0


@pytest.mark.parametrize("structure", STRUCTURES)
def test_starts_as_the_identity_bit_for_bit(structure):
    net, _, _ = NETWORKS["conv"]()
    net.float()
    gradients = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    metric = LLQR(net, structure=structure)
    assert all(torch.equal(x, gradients[n]) for n, x in metric.apply(gradients).items())


def test_dense_metric_learns_the_natural_gradient():
    """With H positive definite, a dense U learns to map g to (F + lambda I)^-1 g (docs/methods.md, section 2.7)."""
    net = nn.Linear(3, 3, bias=False).double()
    x, y = torch.randn(20, 3).double(), torch.randint(0, 3, (20,))
    metric = LLQR(
        net, structure="dense", reduction="mean", damping=0.1, inner_steps=4000, inner_lr=0.5, clip_norm=1e9, ema=0.0
    )
    metric.refresh(x, y, mean_loss)
    net.zero_grad()
    mean_loss(net(x), y).backward()
    g = net.weight.grad.reshape(-1)
    p = net(x).softmax(-1).detach()
    inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    fisher = torch.einsum("ncd,ni,nj->cidj", inner, x, x).reshape(9, 9) / 20
    expected = torch.linalg.solve(fisher + 0.1 * torch.eye(9).double(), g)
    learned = metric.apply({"weight": net.weight.grad})["weight"].reshape(-1)
    torch.testing.assert_close(learned, expected, rtol=1e-6, atol=1e-9)


def test_gaussian_likelihood_is_gauss_newton():
    """For a linear model with a Gaussian likelihood J = X, so the summed curvature is X'X exactly."""
    net = nn.Linear(3, 1, bias=False).double()
    x, y = torch.randn(20, 3).double(), torch.randn(20, 1).double()
    metric = LLQR(net, structure="dense", likelihood="gaussian", ema=0.0, inner_steps=1)
    report = metric.refresh(x, y, nn.functional.mse_loss)
    net.zero_grad()
    nn.functional.mse_loss(net(x), y).backward()
    g = net.weight.grad.reshape(-1)
    assert report.objective_before == pytest.approx(float(-g @ g + 0.5 * g @ (x.T @ x) @ g), rel=1e-10)


def test_state_dict_round_trips_bitwise():
    net, x, y = NETWORKS["conv"]()
    first, second = LLQR(net, structure="ekfac"), LLQR(net, structure="ekfac")
    first.refresh_if_due(x, y, mean_loss)
    second.load_state_dict(first.state_dict())
    assert second.steps == 1
    first.refresh(x, y, mean_loss)
    second.refresh(x, y, mean_loss)
    for name, factors in first.named_factors().items():
        assert all(torch.equal(f, second.named_factors()[name][key]) for key, f in factors.items())


def test_state_of_another_structure_or_model_is_refused():
    net, _, _ = NETWORKS["mlp"]()
    with pytest.raises(ValueError, match="structure=kfac.*structure=diagonal"):
        LLQR(net).load_state_dict(LLQR(net, structure="kfac").state_dict())
    with pytest.raises(ValueError, match="another model"):
        LLQR(net).load_state_dict(LLQR(nn.Linear(2, 2)).state_dict())


def test_refresh_if_due_counts_steps():
    net, x, y = NETWORKS["mlp"]()
    metric = LLQR(net, interval=3, inner_steps=1)
    assert [metric.refresh_if_due(x, y, mean_loss) is not None for _ in range(7)] == [True, False, False] * 2 + [True]


@pytest.mark.gpu
def test_seconds_are_the_refreshs_own():
    """Not of the training steps that the GPU still has to do when it begins."""
    gpu = torch.device("cuda", 0)
    model, matrix = nn.Linear(5, 3).to(gpu), torch.randn(4096, 4096, device=gpu)
    metric = LLQR(model, inner_steps=2)
    batch = torch.randn(7, 5, device=gpu), torch.randint(0, 3, (7,), device=gpu), nn.functional.cross_entropy
    metric.refresh(*batch)  # what the first one loads is not timed
    product = matrix @ matrix
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(500):
        torch.mm(matrix, matrix, out=product)
    report = metric.refresh(*batch)
    assert report.seconds < 0.5 * (time.perf_counter() - begun)


def test_bad_refreshes_keep_the_metric_and_the_third_stops():
    net, x, y = NETWORKS["mlp"]()
    metric = LLQR(net, structure="kfac", ema=0.5)
    metric.refresh(x, y, mean_loss)
    before = metric.state_dict()["factors"]
    broken = torch.full_like(x, float("nan"))
    for _ in range(MAX_FAILURES - 1):
        assert not metric.refresh(broken, y, mean_loss).accepted
    with pytest.raises(RefreshError, match="3 refreshes of U in a row were not finite"):
        metric.refresh(broken, y, mean_loss)
    for name, factors in metric.named_factors().items():
        assert all(torch.equal(f, before[name][key]) for key, f in factors.items())


def test_a_good_refresh_forgives_bad_ones():
    net, x, y = NETWORKS["mlp"]()
    metric = LLQR(net, inner_steps=2)
    broken = torch.full_like(x, float("nan"))
    for _ in range(4):
        metric.refresh(broken, y, mean_loss)
        metric.refresh(broken, y, mean_loss)
        assert metric.refresh(x, y, mean_loss).accepted


@pytest.mark.parametrize(
    ("argument", "value", "rule"),
    [
        ("ema", 1.0, r"in \[0, 1\)"),
        ("interval", 0, ">= 1"),
        ("inner_steps", 0, ">= 1"),
        ("inner_lr", 0.0, "> 0"),
        ("inner_momentum", 1.0, r"in \[0, 1\)"),
        ("clip_norm", -1.0, "> 0"),
        ("damping", float("nan"), ">= 0"),
        ("structure", "kron", "Choose from: diagonal, kfac"),
        ("divergence", "gauss", "Choose from: ngd, newton"),
        ("reduction", "max", "Choose from: sum, mean"),
    ],
)
def test_bad_arguments_are_named(argument, value, rule):
    with pytest.raises(ValueError, match=f"{argument}={value}.*{rule}"):
        LLQR(nn.Linear(2, 2), **{argument: value})


def test_other_models_gradients_are_refused():
    with pytest.raises(ValueError, match="no block for parameter stranger"):
        LLQR(nn.Linear(2, 2)).apply({"stranger": torch.ones(2)})


@pytest.mark.parametrize(
    ("structure", "expected"),
    [("diagonal", 12 + 3), ("kfac", 16 + 9 + 3), ("ekfac", 16 + 9 + 12 + 3), ("diag_kfac", 7 + 3), ("dense", 144 + 3)],
)
def test_storage(structure, expected):
    assert LLQR(nn.Linear(4, 3), structure=structure).storage == expected


def _with_factor(metric, name, value):
    """Sets one factor of every kernel to a multiple of the identity or of one."""
    for factors in metric.named_factors().values():
        if name in factors:
            f = factors[name]
            f.copy_(value * (torch.eye(f.shape[-1], dtype=f.dtype) if name in ("A", "B", "U") else torch.ones_like(f)))


@pytest.mark.parametrize(("structure", "factor"), [("kfac", "A"), ("ekfac", "D"), ("diag_kfac", "b"), ("dense", "U")])
def test_indefinite_metric_falls_back_counts_and_is_never_nan(structure, factor):
    """v' U v < 0 measures nothing: the step has radius rho in the Euclidean norm, and the report counts it."""
    net, x, y = NETWORKS["mlp"]()
    metric = LLQR(net, structure=structure)
    _with_factor(metric, factor, -100.0)
    optimizer = SharpnessAware(torch.optim.SGD(net.parameters(), lr=0.1), rho=0.3, probe=metric)
    theta = [p.detach().clone() for p in net.parameters()]
    radii = []

    def closure():
        optimizer.zero_grad()
        moved = [(p.detach() - t).reshape(-1) for p, t in zip(net.parameters(), theta, strict=True)]
        radii.append(float(torch.cat(moved).norm()))
        loss = mean_loss(net(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert radii == [0.0, pytest.approx(0.3, rel=1e-6)]
    assert metric.fallbacks == 1
    assert all(p.isfinite().all() for p in net.parameters())
    _with_factor(metric, factor, 1.0)
    assert metric.refresh(x, y, mean_loss).fallbacks == 1
    assert metric.refresh(x, y, mean_loss).fallbacks == 0


def _finite(metric):
    return all(f.isfinite().all() for factors in metric.named_factors().values() for f in factors.values())


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_dead_units_leave_their_part_of_the_metric_alone(divergence, structure):
    """No signal in or out of some units: zero rows and columns in g and H, and U stays finite, there the identity."""
    net, x, y = NETWORKS["mlp"]()
    with torch.no_grad():
        net[0].weight[:3], net[0].bias[:3] = 0.0, -1.0  # three units that ReLU shuts for every input
        x[:, 0] = 0.0
    metric = LLQR(net, divergence=divergence, structure=structure, ema=0.0)
    assert metric.refresh(x, y, mean_loss).accepted
    assert _finite(metric)
    net.zero_grad()
    mean_loss(net(x), y).backward()
    assert net[0].weight.grad[:3].eq(0).all()
    applied = metric.apply({"0.weight": net[0].weight.grad})["0.weight"]
    assert applied.isfinite().all()
    assert applied[:3].abs().max() <= 1e-12
    assert applied[:, 0].abs().max() <= 1e-12
    assert applied[3:, 1:].abs().max() > 0


@pytest.mark.parametrize("structure", STRUCTURES)
def test_zero_gradient_leaves_the_metric_as_it_is(structure):
    """A loss that depends on nothing: U is not moved, and the perturbation is zero."""
    net, x, y = NETWORKS["mlp"]()
    metric = LLQR(net, structure=structure)
    before = {name: {k: f.clone() for k, f in factors.items()} for name, factors in metric.named_factors().items()}
    report = metric.refresh(x, y, lambda outputs, targets: 0.0 * mean_loss(outputs, targets))
    assert report.accepted
    assert report.objective_before == report.objective_after == report.relative_change == 0.0
    for name, factors in metric.named_factors().items():
        assert all(torch.allclose(f, before[name][key], rtol=1e-15) for key, f in factors.items())
    zero = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    assert all(eps.eq(0).all() for eps in metric.probe(zero, 0.1).values())


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e3, 1e12])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_curvature_is_refused_or_finite(dtype, divergence, structure, scale):
    """Weights a thousand times too large, and far beyond: the clip holds U, or the refresh says that it does not."""
    net, x, y = NETWORKS["mlp"]()
    net, x = net.to(dtype), x.to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(scale)
    metric = LLQR(net, divergence=divergence, structure=structure)
    before = {name: {k: f.clone() for k, f in factors.items()} for name, factors in metric.named_factors().items()}
    report = metric.refresh(x, y, mean_loss)
    assert _finite(metric)
    if not report.accepted:
        for name, factors in metric.named_factors().items():
            assert all(torch.equal(f, before[name][key]) for key, f in factors.items())
    v = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    assert all(eps.isfinite().all() for eps in metric.probe(v, 0.1).values())


@pytest.mark.parametrize("structure", STRUCTURES)
def test_parameters_without_gradient_are_left_out(structure):
    """U is block-diagonal: what is absent changes nothing for the rest, in stacks of equal shape too."""
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))).double()
    x, y = torch.randn(8, 4).double(), torch.randint(0, 4, (8,))
    metric = LLQR(net, structure=structure, ema=0.0)
    metric.refresh(x, y, mean_loss)
    v = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    whole = metric.apply(v)
    some = {name: v[name] for name in ("2.weight", "0.weight", "1.bias")}
    applied = metric.apply(some)
    assert list(applied) == list(some)
    for name in some:
        torch.testing.assert_close(applied[name], whole[name], rtol=1e-12, atol=1e-14)
    optimizer = SharpnessAware(torch.optim.SGD(net.parameters(), lr=0.1), rho=0.1, probe=metric, transport=metric)
    before = net[0].weight.detach().clone()

    def closure():  # the first layer takes no part, as in a branch not taken
        optimizer.zero_grad()
        loss = mean_loss(net[1:](x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(net[0].weight, before)
    assert all(p.isfinite().all() for p in net.parameters())
    assert metric.apply({}) == {}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_shared_parameters_have_one_block(divergence, structure):
    """Tied weights: one name, the sum of both gradients, and training that keeps the tie."""
    net = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).double()
    net[2].weight = net[0].weight
    x, y = torch.randn(8, 5).double(), torch.randint(0, 5, (8,))
    metric = LLQR(net, divergence=divergence, structure=structure, ema=0.0, reduction="mean")
    assert sorted(metric.named_factors()) == ["0.bias", "0.weight", "2.bias"]
    report = metric.refresh(x, y, mean_loss)
    assert report.accepted
    assert report.objective_after < report.objective_before
    optimizer = SharpnessAware(torch.optim.SGD(net.parameters(), lr=0.1), rho=0.1, probe=metric, transport=metric)
    before = net[0].weight.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = mean_loss(net(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert net[2].weight is net[0].weight
    assert not torch.equal(net[0].weight, before)


def test_frozen_parameters_have_no_block():
    net, x, y = NETWORKS["mlp"]()
    net[0].requires_grad_(False)
    metric = LLQR(net, structure="kfac")
    assert "0.weight" not in metric.named_factors()
    assert metric.refresh(x, y, mean_loss).accepted
    with pytest.raises(ValueError, match="no block for parameter 0.weight"):
        metric.apply({"0.weight": torch.ones(8, 6).double()})


@pytest.mark.parametrize(
    ("frozen", "later", "change"),
    [(False, True, "0.bias was frozen or removed"), (True, False, "0.bias became trainable")],
)
def test_a_change_of_what_is_trained_is_refused_at_the_next_refresh(frozen, later, change):
    """In one sentence; back as it was, U refreshes."""
    net, x, y = NETWORKS["mlp"]()
    net[0].requires_grad_(not frozen)
    metric = LLQR(net, inner_steps=1)
    net[0].requires_grad_(not later)
    with pytest.raises(ValueError, match=f"parameter {change} .*build a new one"):
        metric.refresh(x, y, mean_loss)
    net[0].requires_grad_(not frozen)
    assert metric.refresh(x, y, mean_loss).accepted


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="at least one parameter that requires a gradient"):
        LLQR(nn.Linear(2, 2).requires_grad_(False))
