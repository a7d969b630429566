"""Mixed precision: a scaled run is the unscaled one, and an overflow in either pass leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch.amp import GradScaler

from llqr_sam import LLQR, Friendly, GradientNoise, Metric, SharpnessAware, VarianceSuppressed
from llqr_sam.methods.sharpness_aware import UNSCALED
from tests.methods.networks import NETWORKS, mean_loss

SCALE = 2.0**10


def _sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def _llqr(net):
    metric = LLQR(net, structure="kfac", inner_steps=3)
    return SharpnessAware(_sgd(net), rho=0.1, probe=metric, transport=metric)


METHODS = {
    "base": lambda n: SharpnessAware(_sgd(n), rho=0.0),
    "sam": lambda n: SharpnessAware(_sgd(n), rho=0.1),
    "f_sam": lambda n: SharpnessAware(_sgd(n), rho=0.1, direction=Friendly()),
    "vasso": lambda n: SharpnessAware(_sgd(n), rho=0.1, direction=VarianceSuppressed()),
    "info_sam": lambda n: SharpnessAware(_sgd(n), rho=0.1, probe=GradientNoise()),
    "llqr_sam": _llqr,
    "adamw": lambda n: SharpnessAware(torch.optim.AdamW(n.parameters(), fused=True), rho=0.1),
}


class _Run:
    """One network, its optimizer and its scaler; ``bad_call`` is the evaluation whose gradient overflows."""

    def __init__(self, method, scaler):
        torch.manual_seed(5)
        net, x, self.y = NETWORKS["conv"]()
        self.net, self.x = net.float(), x.float()
        self.optimizer, self.scaler = METHODS[method](self.net), scaler
        self.calls, self.bad_call = 0, None
        if isinstance(self.optimizer.probe, LLQR):
            self.optimizer.probe.refresh(self.x, self.y, mean_loss)

    def closure(self):
        self.optimizer.zero_grad()
        loss = mean_loss(self.net(self.x), self.y)
        self.scaler.scale(loss * (float("inf") if self.calls == self.bad_call else 1.0)).backward()
        self.calls += 1
        return loss

    def step(self, update=True):
        self.optimizer.step(self.closure, scaler=self.scaler)
        if update:
            self.scaler.update()

    def weights(self):
        return [p.detach().clone() for p in self.net.parameters()]

    def everything(self):
        """Weights, momentum, averages and counters, flat."""
        return [t.clone() for t in _tensors([self.weights(), self.optimizer.state_dict()])]


def _tensors(state):
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, (int, float, bool)):
        return [torch.tensor(state)]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return [tensor for value in values for tensor in _tensors(value)]


def _same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("method", list(METHODS))
def test_scaled_run_is_the_unscaled_one(method):
    """A power of two changes no bit of a float32 gradient, so directions, averages and updates see the true one."""
    scaled, plain = _Run(method, GradScaler("cpu", init_scale=SCALE)), _Run(method, UNSCALED)
    for _ in range(4):
        scaled.step()
        plain.step()
    for a, b in zip(scaled.everything(), plain.everything(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", list(METHODS))
def test_overflow_in_the_first_pass_leaves_no_trace(method):
    """Weights, momentum, averages and counters stay as they were, the second pass is spared, the scale is halved."""
    run = _Run(method, GradScaler("cpu", init_scale=SCALE))
    run.step()
    run.step()
    before, run.bad_call = run.everything(), run.calls
    run.step()
    assert run.calls == run.bad_call + 1
    assert _same(run.everything(), before)
    assert run.scaler.get_scale() == SCALE / 2
    run.step()
    assert not _same(run.everything(), before)
    assert all(t.isfinite().all() for t in run.everything())


@pytest.mark.parametrize("method", [method for method in METHODS if method != "base"])
def test_overflow_in_the_second_pass_skips_the_step(method):
    """Weights and momentum stay; averages have seen the first pass's gradient, which was a good one."""
    run, judge = (_Run(method, GradScaler("cpu", init_scale=SCALE)) for _ in range(2))
    for each in (run, judge):
        each.step()
    weights, steps = run.weights(), run.optimizer.steps
    momentum = [t.clone() for t in _tensors(run.optimizer.base.state_dict()["state"])]
    run.bad_call = run.calls + 1
    run.step()
    judge.step()
    assert _same(run.weights(), weights)
    assert _same(_tensors(run.optimizer.base.state_dict()["state"]), momentum)
    assert run.optimizer.steps == steps
    assert run.scaler.get_scale() == SCALE / 2
    assert _same(
        _tensors([run.optimizer.direction.state_dict(), run.optimizer.probe.state_dict()]),
        _tensors([judge.optimizer.direction.state_dict(), judge.optimizer.probe.state_dict()]),
    )
    run.step()
    assert not _same(run.weights(), weights)
    assert all(t.isfinite().all() for t in run.everything())


def test_scale_grows_only_after_good_steps():
    run = _Run("sam", GradScaler("cpu", init_scale=SCALE, growth_interval=2))
    run.step()
    run.bad_call = run.calls + 1
    run.step()
    assert run.scaler.get_scale() == SCALE / 2
    run.step()
    run.step()
    assert run.scaler.get_scale() == SCALE


def test_forgotten_update_is_refused():
    """As with any optimizer: torch names the mistake."""
    run = _Run("sam", GradScaler("cpu"))
    run.step(update=False)
    with pytest.raises(RuntimeError, match="since the last update"):
        run.step()


def test_hooks_of_the_base_see_true_gradients_and_no_skipped_step():
    run = _Run("sam", GradScaler("cpu", init_scale=SCALE))
    seen = []
    run.optimizer.base.register_step_pre_hook(
        lambda *_: seen.append(torch.stack([p.grad.norm() for p in run.net.parameters()]).norm())
    )
    run.step()
    run.bad_call = run.calls + 1
    run.step()
    assert len(seen) == 1
    assert float(seen[0]) < 10


@pytest.mark.parametrize("scaler", [UNSCALED, GradScaler("cpu", enabled=False)])
def test_disabled_scaler_looks_at_nothing(scaler):
    run = _Run("base", scaler)
    run.bad_call = 0
    run.step()
    assert run.optimizer.steps == 1
    assert not any(t.isfinite().all() for t in run.weights())


def test_workers_that_would_not_agree_are_refused():
    run = _Run("sam", GradScaler("cpu"))
    run.optimizer.first_pass = torch.no_grad
    with pytest.raises(ValueError, match="first_pass=.*GradScaler.*ShardedGradScaler"):
        run.step()
    run.scaler = UNSCALED
    run.step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_autocast_trains(dtype, name):
    """bfloat16 needs no scaler, float16 has one; U is refreshed from the float32 weights in between."""
    torch.manual_seed(2)
    net, x, y = NETWORKS[name]()
    net, x = net.float(), x.float() if x.is_floating_point() else x
    metric = LLQR(net, interval=10, inner_steps=5)
    optimizer = SharpnessAware(_sgd(net), rho=0.02, probe=metric, transport=metric)
    scaler = GradScaler("cpu", enabled=dtype == torch.float16)

    def closure():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = mean_loss(net(x), y)
        scaler.scale(loss).backward()
        return loss.detach()

    losses = []
    for _ in range(30):
        metric.refresh_if_due(x, y, mean_loss)
        losses.append(float(optimizer.step(closure, scaler=scaler)))
        scaler.update()
    assert losses[-1] < 0.85 * losses[0]
    assert all(p.dtype == torch.float32 for p in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
@pytest.mark.parametrize("divergence", ["ngd", "newton"])
def test_the_callers_autocast_does_not_reach_the_metric(divergence, structure, chunk_size):
    """U, U v, and the perturbation are bit for bit those without it."""

    def learned(autocast):
        torch.manual_seed(2)
        net, x, y = NETWORKS["conv"]()
        net, x = net.float(), x.float()
        metric = LLQR(net, divergence=divergence, structure=structure, inner_steps=3, ema=0.0, chunk_size=chunk_size)
        v = {name: torch.randn_like(p) for name, p in net.named_parameters()}
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            report = metric.refresh(x, y, mean_loss)
            found = [metric.named_factors(), metric.apply(v), metric.probe(v, 0.1)]
            metric.apply_(v)
            assert torch.is_autocast_enabled("cpu") == autocast
        return report, _tensors([*found, v])

    (report, with_it), (plain, without) = learned(True), learned(False)
    assert (report.objective_before, report.objective_after) == (plain.objective_before, plain.objective_after)
    assert _same(with_it, without)


@pytest.mark.parametrize("norm", ["metric", "euclidean"])
@pytest.mark.parametrize("gradient", [1e-7, 1e-4, 1.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_perturbations_have_radius_rho(dtype, gradient, norm):
    """Entries whose squares float16 loses, or cannot hold, are measured all the same."""
    g = torch.full((64, 64), gradient, dtype=dtype)
    eps, expected = (Metric().probe({"w": x}, 0.1, norm)["w"] for x in (g, g.float()))
    assert torch.equal(eps, expected)
    assert float(eps.norm()) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("method", ["sam", "f_sam", "llqr_sam"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_in_half_precision_take_finite_steps_along_vanishing_gradients(dtype, method):
    torch.manual_seed(5)
    net, x, y = NETWORKS["mlp"]()
    net, x = net.to(dtype), x.to(dtype)
    optimizer = METHODS[method](net)
    before = [p.detach().clone() for p in net.parameters()]
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = mean_loss(net(x), y) * 1e-4
        loss.backward()
        seen.append([p.detach().clone() for p in net.parameters()])
        return loss

    optimizer.step(closure)
    squares = [p.grad.square() for p in net.parameters()]
    assert dtype == torch.bfloat16 or all(square.eq(0).all() for square in squares)
    moved = torch.cat([(p - start).float().reshape(-1) for p, start in zip(seen[1], before, strict=True)]).norm()
    assert float(moved) == pytest.approx(0.1, rel=0.1)
    assert all(p.isfinite().all() for p in net.parameters())
