"""Mixed precision: a scaled run is the unscaled one, and an overflow in either pass leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch.amp import GradScaler
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

from llqr_sam import LLQR, Friendly, GradientNoise, SharpnessAware, VarianceSuppressed
from llqr_sam.methods.mixed_precision import UNSCALED, unscale, workers_agree
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
    net = torch.nn.Linear(2, 2)
    net.weight.grad = torch.full((2, 2), float("inf"))
    assert unscale(scaler, _sgd(net))
    assert net.weight.grad.isinf().all()


def test_workers_that_would_not_agree_are_refused():
    run = _Run("sam", GradScaler("cpu"))
    run.optimizer.first_pass = torch.no_grad
    with pytest.raises(ValueError, match="use torch.distributed.fsdp.sharded_grad_scaler.ShardedGradScaler"):
        run.step()
    assert workers_agree(UNSCALED)
    assert workers_agree(ShardedGradScaler("cpu"))


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
