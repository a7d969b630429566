"""J v and H v by replay and by backward passes alone, at points and losses that change, and the checks between them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llqr_sam.methods.curvature.inference import differentiable_inference
from llqr_sam.methods.curvature.likelihoods import Categorical
from llqr_sam.methods.curvature.point import UnsupportedModuleError, point_of, vjp
from llqr_sam.methods.curvature.products import Fisher, Hessian
from tests.methods.networks import NETWORKS, mean_loss


@pytest.mark.parametrize("name", list(NETWORKS))
def test_both_ways_are_the_jacobian(name):
    net, x, _ = NETWORKS[name]()
    with differentiable_inference(net):
        point = point_of(net, x)
        outputs = point.outputs()
        pushes = [
            Fisher(Categorical(), "sum", untraced).jacobian(point, outputs) for untraced in ("for comparison", "")
        ]
    v = {n: torch.randn_like(p) for n, p in point.parameters.items()}
    u = torch.randn_like(outputs)
    pulled = vjp([outputs], list(point.parameters.values()), [u], retain_graph=True)
    expected = sum((t * g).sum() for t, g in zip(v.values(), pulled, strict=True))
    for push in pushes:
        torch.testing.assert_close((push(v)[0] * u).sum(), expected, rtol=1e-9, atol=1e-9)


class Small(nn.Module):
    """A parameter with a millionth of the derivative, which forward mode does not see."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.bias = nn.Parameter(torch.zeros(2))
        self.held = [self.bias]

    def forward(self, x):
        return self.linear(x) + 1e-6 * self.held[0]


def test_a_parameter_of_little_weight_is_compared_too():
    net = Small().double()
    x, replay = torch.randn(4, 3, dtype=torch.float64), Fisher(Categorical(), "sum")
    with differentiable_inference(net):
        point = point_of(net, x)
        outputs = point.outputs()
        push = replay.jacobian(point, outputs)
    assert replay.cache.refusal == "the trace has other values or derivatives than the network"
    v = {n: torch.zeros_like(p) for n, p in point.parameters.items()}
    v["bias"] += 1
    torch.testing.assert_close(push(v)[0], torch.full_like(outputs, 1e-6))


def _compare(net, x, y, replay, loss_fn=mean_loss, rtol=1e-9):
    """g and three products of both; returns the trace that the replay used."""
    with differentiable_inference(net):
        point = point_of(net, x, y, loss_fn)
        ours, theirs = replay.at(point), Hessian("for comparison").at(point)
    torch.testing.assert_close(ours.gradient, theirs.gradient, rtol=rtol, atol=1e-12)
    for _ in range(3):
        v = {n: torch.randn_like(p) for n, p in point.parameters.items()}
        torch.testing.assert_close(ours.product(v), theirs.product(v), rtol=rtol, atol=1e-11)
    return None if replay.cache.refusal else next(reversed(replay.cache.traces.values()))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NETWORKS))
def test_right_at_every_point_with_one_trace(name):
    net, x, y = NETWORKS[name]()
    replay, traces = Hessian(), set()
    for _ in range(3):
        with torch.no_grad():
            for p in [*net.parameters(), *(b for b in net.buffers() if b.is_floating_point())]:
                p.add_(0.01 * torch.rand_like(p))
        inputs = x if x.dtype == torch.int64 else torch.randn_like(x)
        traces.add(_compare(net, inputs, y, replay))
    assert None not in traces, "replayed"
    assert len(traces) == 1


def test_another_loss_of_the_same_gradient_is_not_trusted():
    """At z = 0 the losses sum z and sum (z + z^2) have one gradient and two Hessians."""
    net = nn.Linear(3, 2).double()
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    x, y, replay = torch.randn(4, 3, dtype=torch.float64), torch.zeros(4), Hessian()
    _compare(net, x, y, replay, lambda z, _: z.sum())
    _compare(net, x, y, replay, lambda z, _: (z + z.square()).sum())


def test_a_stale_trace_is_noticed():
    class Switching(nn.Linear):
        power = 1

        def forward(self, x):
            return super().forward(x) ** self.power

    net, y, replay = Switching(6, 5).double(), torch.randint(0, 5, (4,)), Hessian()
    x = torch.randn(4, 6, dtype=torch.float64)
    first = _compare(net, x, y, replay)
    net.power = 3
    assert _compare(net, x, y, replay) is not first


class _Lying(torch.autograd.Function):
    """x^2 whose backward pass, differentiated forward, forgets a factor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, u):
        return 2 * ctx.saved_tensors[0] * u

    @staticmethod
    def jvp(ctx, tangent):
        return ctx.saved_tensors[0] * tangent


def test_a_product_that_disagrees_is_refused_for_good():
    class Net(nn.Linear):
        def forward(self, x):
            return _Lying.apply(super().forward(x))

    net, y, replay = Net(6, 5).double(), torch.randint(0, 5, (4,)), Hessian()
    x = torch.randn(4, 6, dtype=torch.float64)
    for _ in range(2):
        assert _compare(net, x, y, replay) is None


def test_no_second_derivative_is_an_error():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, u):
            return 2 * ctx.saved_tensors[0] * u

    class Net(nn.Linear):
        def forward(self, x):
            return Once.apply(super().forward(x))

    net = Net(3, 2)
    point = point_of(net, torch.randn(4, 3), torch.zeros(4).long(), mean_loss)
    for untraced in ("", "for comparison"):
        with pytest.raises(UnsupportedModuleError, match="once_differentiable"):
            Hessian(untraced).at(point)
