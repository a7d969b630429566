"""The sharpness-aware step: its reductions, its outside judges, and what it must leave alone."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from llqr_sam import (
    LLQR,
    Adaptive,
    FisherDiagonal,
    Friendly,
    GradientNoise,
    SharpnessAware,
    VarianceSuppressed,
)
from tests.golden_numbers import arrays, flatten, problem, unflatten
from tests.methods.networks import NETWORKS, mean_loss
from tests.methods.training import METHODS, closure_of, identical, sgd


def _train(build, steps=6, name="conv", dtype=torch.float32):
    """Weights after some steps on fresh minibatches; the network and the data are the same for every ``build``."""
    torch.manual_seed(1)
    net, x, y = NETWORKS[name]()
    net = net.to(dtype)
    optimizer = build(net)
    for _ in range(steps):
        inputs, targets = torch.randn_like(x.to(dtype)), torch.randint(0, 5, y.shape)
        optimizer.step(closure_of(net, optimizer, inputs, targets))
    return {n: t.clone() for n, t in net.state_dict().items()}


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_rho_zero_is_the_base_optimizer(name):
    assert identical(_train(lambda n: SharpnessAware(sgd(n), rho=0.0), name=name), _train(sgd, name=name))


def test_before_the_start_step_is_the_base_optimizer():
    late = lambda n: SharpnessAware(sgd(n), rho=0.1, start_step=6)  # noqa: E731
    assert identical(_train(late), _train(sgd))
    assert not identical(_train(late, steps=7), _train(sgd, steps=7))


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
@pytest.mark.parametrize("norm", ["metric", "euclidean"])
def test_identity_metric_is_sam(structure, norm):
    def llqr_sam(net):
        metric = LLQR(net, structure=structure)
        return SharpnessAware(sgd(net), rho=0.1, probe=metric, transport=metric, norm=norm)

    sam = _train(lambda n: SharpnessAware(sgd(n), rho=0.1, norm=norm))
    for name, found in _train(llqr_sam).items():
        # v' M v is rounded otherwise than |v|^2
        torch.testing.assert_close(found, sam[name], rtol=0, atol=0 if norm == "euclidean" else 1e-6)


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
def test_identity_transport_without_probe_is_the_base_optimizer(structure):
    def llqr(net):
        return SharpnessAware(sgd(net), rho=0.0, transport=LLQR(net, structure=structure))

    assert identical(_train(llqr), _train(sgd))


def test_sigma_zero_is_sam():
    friendly = lambda n: SharpnessAware(sgd(n), rho=0.1, direction=Friendly(sigma=0.0))  # noqa: E731
    assert identical(_train(friendly), _train(lambda n: SharpnessAware(sgd(n), rho=0.1)))


def test_theta_one_is_sam():
    vasso = lambda n: SharpnessAware(sgd(n), rho=0.1, direction=VarianceSuppressed(theta=1.0))  # noqa: E731
    assert identical(_train(vasso), _train(lambda n: SharpnessAware(sgd(n), rho=0.1)))


def _perceptron():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double()


OUTSIDE = {
    "sam": (lambda n: SharpnessAware(sgd(n), rho=0.1), "SAM", {"rho": 0.1}),
    "asam": (
        lambda n: SharpnessAware(sgd(n), rho=0.5, probe=Adaptive(n, eta=0.0, biases=True)),
        "SAM",
        {"rho": 0.5, "adaptive": True},
    ),
    "f_sam": (
        lambda n: SharpnessAware(sgd(n), rho=0.1, direction=Friendly(decay=0.9, sigma=1.0)),
        "FriendlySAM",
        {"rho": 0.1, "sigma": 1.0, "lmbda": 0.9},
    ),
}


@pytest.mark.parametrize("method", list(OUTSIDE))
def test_trajectory_of_pytorch_optimizer(method):
    """Ten steps beside another library's; its norm is float32, hence the tolerance."""
    build, name, options = OUTSIDE[method]
    theirs = getattr(pytest.importorskip("pytorch_optimizer"), name)
    net, other = _perceptron(), _perceptron()
    optimizer = build(net)
    judge = theirs(other.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4, **options)
    for _ in range(10):
        x, y = torch.randn(12, 6, dtype=torch.float64), torch.randint(0, 5, (12,))
        optimizer.step(closure_of(net, optimizer, x, y))
        mean_loss(other(x), y).backward()
        judge.first_step(zero_grad=True)
        mean_loss(other(x), y).backward()
        judge.second_step(zero_grad=True)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-8)


def test_heavy_ball_on_transported_gradients_matches_the_authors():
    """Three SGD steps on U g: weight decay after the transport, plain momentum, no Nesterov."""
    golden = arrays("sam")
    net, x, y = problem()
    metric = LLQR(net, structure="ekfac", ema=0.95)
    metric.refresh(x, y, nn.functional.nll_loss)
    optimizer = SharpnessAware(sgd(net), rho=0.0, transport=metric)
    for expected in golden["polyak_theta"]:

        def closure():
            optimizer.zero_grad()
            loss = nn.functional.nll_loss(net(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        torch.testing.assert_close(flatten(net.state_dict()), expected, rtol=1e-9, atol=1e-11)


def test_update_is_the_papers_equation_one():
    """theta - eta U g(theta + rho U g / |g|_U), written out."""
    net, x, y = problem()
    metric = LLQR(net, structure="kfac", ema=0.0)
    metric.refresh(x, y, nn.functional.nll_loss)
    theta = {n: p.detach().clone() for n, p in net.named_parameters()}
    g = unflatten(arrays("mlp_base")["grad_flat"])
    ug = metric.apply(g)
    size = sum((g[n] * ug[n]).sum() for n in g).sqrt()
    probe = copy.deepcopy(net)
    probe.load_state_dict({n: theta[n] + 0.1 * ug[n] / size for n in theta})
    loss = nn.functional.nll_loss(probe(x), y)
    loss.backward()
    update = metric.apply({n: p.grad for n, p in probe.named_parameters()})
    optimizer = SharpnessAware(torch.optim.SGD(net.parameters(), lr=0.05), rho=0.1, probe=metric, transport=metric)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.nll_loss(net(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    for n, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), theta[n] - 0.05 * update[n], rtol=1e-9, atol=1e-11)


def test_probe_only_leaves_the_gradient_untransported():
    """LLQR^Delta+SAM (paper, Table 7): U in the probe, identity in the update."""
    net, x, y = problem()
    metric = LLQR(net, ema=0.0)
    metric.refresh(x, y, nn.functional.nll_loss)
    optimizer = SharpnessAware(torch.optim.SGD(net.parameters(), lr=1.0), rho=0.1, probe=metric)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.nll_loss(net(x), y)
        loss.backward()
        seen.append({n: p.grad.clone() for n, p in net.named_parameters()})
        return loss

    optimizer.step(closure)
    assert len(seen) == 2
    for n, p in net.named_parameters():
        assert torch.equal(p.detach(), before[n] - seen[1][n])


@pytest.mark.parametrize(("batch_norm", "recording"), [("perturbed", 1), ("clean", 0)])
@pytest.mark.parametrize("named", [True, False])
def test_batch_norm_records_exactly_one_pass(batch_norm, recording, named):
    net, x, y = NETWORKS["conv"]()
    before = int(net.norm.num_batches_tracked)
    optimizer = SharpnessAware(sgd(net), rho=0.5, batch_norm=batch_norm, model=net if named else None)
    statistics = []

    def closure():
        optimizer.zero_grad()
        loss = mean_loss(net(x), y)
        loss.backward()
        statistics.append(net.norm.running_mean.clone())
        return loss

    optimizer.step(closure)
    assert torch.equal(net.norm.running_mean, statistics[recording])
    assert not torch.equal(statistics[0], statistics[1])
    assert net.norm.num_batches_tracked == before + 1


def test_weights_are_restored_when_the_second_pass_raises():
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net), rho=0.5)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    calls = []

    def closure():
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return closure_of(net, optimizer, x, y)()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert identical(net.state_dict(), before)


def test_returned_loss_is_the_unperturbed_one():
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net), rho=0.5)
    expected = mean_loss(net(x), y).item()
    assert optimizer.step(closure_of(net, optimizer, x, y)).item() == expected


def test_schedulers_reach_the_base_and_survive_loading():
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net), rho=0.1)
    optimizer.load_state_dict(optimizer.state_dict())
    scheduler = CosineAnnealingLR(optimizer, T_max=2)
    optimizer.step(closure_of(net, optimizer, x, y))
    scheduler.step()
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0.025)


SCHEDULERS = {
    "cosine": lambda o: CosineAnnealingLR(o, T_max=4),
    "step": lambda o: StepLR(o, step_size=2, gamma=0.1),
    "one_cycle": lambda o: OneCycleLR(o, max_lr=0.1, total_steps=8),
    "warm_up": lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=2), LambdaLR(o, lambda e: 0.9**e)], [2]),
    "plateau": lambda o: ReduceLROnPlateau(o, patience=0),
}


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_any_scheduler_does_what_it_does_to_the_base_alone(name):
    """The same rates and, where it cycles it, the same momentum; torch complains of no more than of the base."""

    def rates(optimizer, net, x, y):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            scheduler = SCHEDULERS[name](optimizer)
            seen = []
            for _ in range(6):
                optimizer.step(closure_of(net, optimizer, x, y))
                scheduler.step(*([1.0] if name == "plateau" else []))
                seen.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
        return seen, net.state_dict(), [str(warning.message) for warning in said]

    net, x, y = _seeded("mlp")
    judge, weights, complaints = rates(sgd(net), net, x, y)
    net, x, y = _seeded("mlp")
    optimizer = SharpnessAware(sgd(net), rho=0.0)
    mine, own_weights, own_complaints = rates(optimizer, net, x, y)
    assert (mine, own_complaints) == (judge, complaints)
    assert identical(own_weights, weights)
    assert optimizer.base.param_groups is optimizer.param_groups


def _seeded(name):
    torch.manual_seed(4)
    return NETWORKS[name]()


def test_step_hooks_of_both_optimizers_are_called():
    """Once a step each, the wrapper's around the base's, with the arguments of the step."""
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(sgd(net), rho=0.1)
    called = []
    closure = closure_of(net, optimizer, x, y)
    optimizer.register_step_pre_hook(lambda o, args, kwargs: called.append(("before", o, args[1:])))
    optimizer.register_step_post_hook(lambda o, args, kwargs: called.append(("after", o, args[1:])))
    optimizer.base.register_step_pre_hook(lambda o, args, kwargs: called.append(("base before", o, args[1:])))
    optimizer.base.register_step_post_hook(lambda o, args, kwargs: called.append(("base after", o, args[1:])))
    optimizer.step(closure)
    own, base = optimizer, optimizer.base
    assert called == [
        ("before", own, (closure,)),
        ("base before", base, ()),
        ("base after", base, ()),
        ("after", own, (closure,)),
    ]


def test_a_hook_on_the_base_clips_the_transported_gradient():
    net, x, y = NETWORKS["mlp"]()
    metric = LLQR(net, ema=0.0)
    metric.refresh(x, y, mean_loss)
    optimizer = SharpnessAware(torch.optim.SGD(net.parameters(), lr=1.0), rho=0.1, probe=metric, transport=metric)
    transported = {}

    def clip(*_):
        transported.update({n: p.grad.clone() for n, p in net.named_parameters()})
        nn.utils.clip_grad_norm_(net.parameters(), 0.01)

    optimizer.base.register_step_pre_hook(clip)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    optimizer.step(closure_of(net, optimizer, x, y))
    size = torch.stack([g.norm() for g in transported.values()]).norm()
    assert size > 0.01
    for n, p in net.named_parameters():
        torch.testing.assert_close(before[n] - p.detach(), transported[n] * 0.01 / size, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("method", ["sam", "f_sam", "llqr_sam", "adamw"])
def test_accumulation_inside_the_closure_is_the_whole_batch(method):
    """Micro-batches of a network without batch-norm: the same perturbation, the same step."""

    def train(micro_batches):
        net, _, _ = _seeded("mlp")
        optimizer = METHODS[method](net)
        for _ in range(4):
            x, y = torch.randn(12, 6, dtype=torch.float64), torch.randint(0, 5, (12,))

            def closure(x=x, y=y):
                optimizer.zero_grad()
                total = 0.0
                for inputs, targets in zip(x.chunk(micro_batches), y.chunk(micro_batches), strict=True):
                    loss = mean_loss(net(inputs), targets) / micro_batches
                    loss.backward()
                    total = total + loss.detach()
                return total

            optimizer.step(closure)
        return net.state_dict()

    whole, accumulated = train(1), train(3)
    for name in whole:
        torch.testing.assert_close(accumulated[name], whole[name], rtol=1e-9, atol=1e-12)


def test_groups_may_have_their_own_radius():
    """rho = 0 keeps a group out of the probe and out of its norm."""
    net, x, y = NETWORKS["mlp"]()
    groups = [{"params": net[0].parameters(), "rho": 0.0}, {"params": [*net[2].parameters(), *net[4].parameters()]}]
    optimizer = SharpnessAware(torch.optim.SGD(groups, lr=0.1), rho=0.3)
    theta = [p.detach().clone() for p in net.parameters()]
    at = []

    def closure():
        at.append([p.detach() - t for p, t in zip(net.parameters(), theta, strict=True)])
        return closure_of(net, optimizer, x, y)()

    optimizer.step(closure)
    first, rest = at[1][:2], at[1][2:]
    assert all(eps.eq(0).all() for eps in first)
    assert float(torch.cat([eps.reshape(-1) for eps in rest]).norm()) == pytest.approx(0.3)


def test_added_groups_are_trained():
    net, x, y = NETWORKS["mlp"]()
    optimizer = SharpnessAware(torch.optim.SGD(net[0].parameters(), lr=0.1), rho=0.1)
    optimizer.add_param_group({"params": list(net[4].parameters()), "lr": 0.2})
    assert optimizer.base.param_groups is optimizer.param_groups
    assert optimizer.param_groups[1]["rho"] == 0.1
    before = net[4].weight.detach().clone()
    optimizer.step(closure_of(net, optimizer, x, y))
    assert not torch.equal(net[4].weight, before)


@pytest.mark.parametrize(
    ("probe", "norm"),
    [(None, "metric"), (FisherDiagonal, "metric"), (GradientNoise, "euclidean")],
)
def test_the_norm_is_the_probes_own_unless_given(probe, norm):
    def build(net, **options):
        return SharpnessAware(sgd(net), rho=0.1, probe=probe and probe(), **options)

    assert build(nn.Linear(2, 2)).perturbation.norm == norm
    assert identical(_train(build), _train(lambda n: build(n, norm=norm)))
    if probe is not None:
        other = "metric" if norm == "euclidean" else "euclidean"
        assert not identical(_train(build), _train(lambda n: build(n, norm=other)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": -1.0}, "rho=-1.0 must be >= 0"),
        ({"start_step": -1}, "start_step=-1 must be >= 0"),
        ({"norm": "l1"}, "norm=l1 is not known. Choose from: metric, euclidean"),
        ({"batch_norm": "both"}, "batch_norm=both is not known. Choose from: perturbed, clean"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SharpnessAware(sgd(nn.Linear(2, 2)), **options)


def test_metrics_of_different_networks_are_refused():
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(ValueError, match="different networks"):
        SharpnessAware(sgd(one), probe=LLQR(one), transport=LLQR(two))
    optimizer = SharpnessAware(sgd(one), transport=LLQR(two))
    with pytest.raises(ValueError, match="not the model's"):
        optimizer.step(closure_of(one, optimizer, torch.randn(3, 2), torch.zeros(3).long()))
