"""Every activation of torch, at points on each side of its kinks: H v is right under both divergences."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from llqr_sam import LLQR
from llqr_sam.methods.curvature.inference import PlainForms
from tests.methods.networks import mean_loss
from tests.methods.test_hard_networks import DIVERGENCES, blob, exact

# No point is nearer than 0.01 to a kink: 0, 0.5, 1, 3 and 6, on either side, and the 0.1 of Threshold below.
POINTS = torch.linspace(-6.98, 7.02, 48, dtype=torch.float64).view(2, 6, 4)

ARGUMENTS = {"Threshold": (0.1, 0.3), "Softmax": (-1,), "Softmin": (-1,), "LogSoftmax": (-1,)}
ACTIVATIONS = {
    name: partial(getattr(nn, name), *ARGUMENTS.get(name, ()))
    for name in nn.modules.activation.__all__
    if name != "MultiheadAttention"  # the transformers of test_derivatives.py have it
}
IN_PLACE = [name for name, make in ACTIVATIONS.items() if hasattr(make(), "inplace")]

COMPOSED = {
    "Hardsigmoid": lambda x: (x + 3).clamp(0, 6) / 6,
    "Hardswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "Hardtanh": lambda x: x.clamp(-1, 1),
    "ReLU6": lambda x: x.clamp(0, 6),
    "Softshrink": lambda x: x - x.clamp(-0.5, 0.5),
    "Hardshrink": lambda x: torch.where(x.abs() > 0.5, x, 0 * x),
    "Threshold": lambda x: torch.where(x > 0.1, x, 0 * x + 0.3),
    "LeakyReLU": lambda x: x.clamp(min=0) + 0.01 * x.clamp(max=0),
    "RReLU": lambda x: x.clamp(min=0) + (1 / 8 + 1 / 3) / 2 * x.clamp(max=0),
    "CELU": lambda x: x.clamp(min=0) + x.clamp(max=0).exp() - 1,
    "GLU": lambda x: x[..., : x.shape[-1] // 2] * x[..., x.shape[-1] // 2 :].sigmoid(),
}


class AtPoints(nn.Module):
    """An activation whose arguments are parameters, times inputs near 1."""

    def __init__(self, activation):
        super().__init__()
        self.points, self.activation = nn.Parameter(POINTS.clone()), activation
        self.last = nn.Linear(activation.double()(POINTS.clone()).numel(), 5)

    def forward(self, x):
        return self.last(self.activation(self.points * x.view(-1, 1, 1, 1)).flatten(1) / 5)


def minibatch():
    return torch.tensor([1.0, 1.0001, 0.9999], dtype=torch.float64), torch.tensor([0, 3, 1])


def product(net, divergence, x, y):
    """Any v, and H v as a refresh computes it, and why it was not replayed."""
    metric = LLQR(net, divergence=divergence)
    curvature = metric._curvature.at(x, y, mean_loss)
    v = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    return v, curvature.product(v), metric._curvature.refusal


def by_differences(net, divergence, x, y, v, step=1e-4):
    """H v from first derivatives at four points along v."""
    net, total = net.eval(), []
    values, parameters = net(x), dict(net.named_parameters())
    for place, weight in ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12)):
        moved = copy.deepcopy(net)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                p.add_(place * step * v[name])
        z = moved(x)
        found = [z] if divergence == "ngd" else torch.autograd.grad(mean_loss(z, y), list(moved.parameters()))
        terms = [weight / step * t.detach() for t in found]
        total = [a + b for a, b in zip(total, terms, strict=True)] if total else terms
    if divergence == "newton":
        return dict(zip(parameters, total, strict=True))
    p, (jv,) = values.detach().softmax(-1), total
    m = p * jv - p * (p * jv).sum(-1, keepdim=True)
    return dict(zip(parameters, torch.autograd.grad(values, list(parameters.values()), m), strict=True))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(
    ("name", "inplace"), [*((name, False) for name in ACTIVATIONS), *((name, True) for name in IN_PLACE)]
)
def test_every_activation_against_finite_differences(name, inplace, divergence):
    torch.manual_seed(1)
    net, (x, y) = AtPoints(ACTIVATIONS[name]()).double(), minibatch()
    net.activation.inplace = inplace
    v, found, unreplayed = product(net, divergence, x, y)
    expected = by_differences(net, divergence, x, y, v)
    for key, h in found.items():
        torch.testing.assert_close(h, expected[key], rtol=1e-6, atol=1e-8)  # torch's own 1/6 is a float32
    assert bool(unreplayed) == ((name, inplace) == ("RReLU", True)), unreplayed


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", list(COMPOSED))
def test_piecewise_activations_against_compositions(name, divergence):
    """Double backward through clamps, to the last digits."""
    torch.manual_seed(1)
    net, (x, y) = AtPoints(ACTIVATIONS[name]()).double(), minibatch()
    v, found, _ = product(net, divergence, x, y)
    net.activation.forward = COMPOSED[name]
    _, (expected,) = exact(net, x, y, mean_loss, divergence, [v])
    for h, theirs in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(h, theirs, rtol=1e-11, atol=1e-14)


class Inverted(nn.Module):
    """A block of MobileNetV3 and a classifier; ``inplace`` as of its hard-swishes and hard-sigmoid."""

    def __init__(self, inplace):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.Hardswish(inplace),
            nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
            nn.BatchNorm2d(6),
            nn.Hardswish(inplace),
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.Hardsigmoid(inplace)
        )
        self.project, self.last = nn.Conv2d(6, 3, 1), nn.Linear(3, 5)

    def forward(self, x):
        h = self.body(x)
        return self.last((x + self.project(h * self.gate(h))).mean((2, 3)))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_block_of_mobilenetv3(divergence, inplace):
    torch.manual_seed(1)
    net, x, y = Inverted(inplace).double(), 2 * blob(4, 3, 5, 5), torch.randint(0, 5, (4,))
    net(x)  # sets the running statistics
    v, found, unreplayed = product(net, divergence, x, y)
    assert not unreplayed
    assert LLQR(net, divergence=divergence, inner_steps=2).refresh(x, y, mean_loss).accepted
    for module in net.modules():
        if isinstance(module, (nn.Hardswish, nn.Hardsigmoid)):
            module.forward = COMPOSED[type(module).__name__]
    _, (expected,) = exact(net, x, y, mean_loss, divergence, [v])
    for h, theirs in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(h, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_an_exported_network(divergence):
    """Its graph calls torch's kernels by themselves."""
    torch.manual_seed(1)
    net, x, y = Inverted(inplace=True).double(), blob(4, 3, 5, 5), torch.randint(0, 5, (4,))
    net.eval()
    exported = torch.export.export(net, (x,)).module()
    assert "hardsigmoid_" in str(exported.graph)
    exported.train = exported.eval = lambda mode=True: exported  # an exported module has one mode, and raises otherwise
    v, expected, _ = product(net, divergence, x, y)
    metric = LLQR(exported, divergence=divergence)
    found = metric._curvature.at(x, y, mean_loss).product(v)
    assert not metric._curvature.refusal
    for name, h in found.items():
        torch.testing.assert_close(h, expected[name], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kernel", [torch._C._nn.hardsigmoid, torch.ops.aten.hardsigmoid.default])
def test_kernels_called_by_themselves_have_two_derivatives(kernel):
    x = POINTS.flatten()[:12].clone().requires_grad_()
    with PlainForms():
        assert torch.autograd.gradgradcheck(lambda t: kernel(t).square(), x)


@pytest.mark.parametrize("dim", [-1, 0, 1, -3])
def test_gated_units_halve_the_axis_that_torch_halves(dim):
    x = blob(4, 6, 2)
    with PlainForms():
        ours = functional.glu(x, dim)
        with pytest.raises(RuntimeError):
            functional.glu(x[:, :5], 1)
    torch.testing.assert_close(ours, functional.glu(x, dim))
