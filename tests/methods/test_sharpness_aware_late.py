"""Parameters that join late, and metrics that learn from gradients: every composition steps at any time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llqr_sam import LLQR, Adaptive, FisherDiagonal, Friendly, GradientNoise, Metric, SharpnessAware, VarianceSuppressed
from tests.methods.networks import mean_loss
from tests.methods.training import closure_of, identical


class Branching(nn.Module):
    """The first layer alone, or both."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.both = nn.Linear(6, 5), nn.Linear(5, 5), False

    def forward(self, x):
        return self.second(self.first(x)) if self.both else self.first(x)


DIRECTIONS = {"gradient": None, "friendly": Friendly, "variance_suppressed": VarianceSuppressed}
METRICS = {"identity": Metric, "fisher": FisherDiagonal, "noise": GradientNoise, "llqr": LLQR, "adaptive": Adaptive}


def _composed(net, base, direction=None, probe="identity", transport="identity", **options):
    metrics = {name: METRICS[name](*[net] * (name in ("llqr", "adaptive"))) for name in {probe, transport}}
    kind = DIRECTIONS[direction or "gradient"]
    return SharpnessAware(
        base,
        direction=kind and kind(),
        probe=metrics[probe],
        transport=metrics[transport],
        model=net,
        **{"rho": 0.1, **options},
    )


COMPOSITIONS = [
    *({"direction": direction} for direction in DIRECTIONS),
    *({"probe": metric} for metric in METRICS),
    *({"transport": metric} for metric in METRICS),
    *({"transport": metric, "probe": metric} for metric in METRICS),
]


@pytest.mark.parametrize("parts", COMPOSITIONS, ids=str)
@pytest.mark.parametrize("how", ["branch", "unfrozen", "group"])
def test_a_parameter_may_have_its_first_gradient_late(parts, how):
    net = Branching()
    net.second.requires_grad_(how != "unfrozen")
    if "llqr" in parts.values():
        net.second.requires_grad_(True)  # U has no block for a parameter that was frozen
    base = torch.optim.SGD(net.parameters() if how != "group" else net.first.parameters(), lr=0.05)
    optimizer = _composed(net, base, **parts)
    x, y = torch.randn(8, 6), torch.randint(0, 5, (8,))
    optimizer.step(closure_of(net, optimizer, x, y))
    if how == "group":
        optimizer.add_param_group({"params": list(net.second.parameters())})
    net.second.requires_grad_(True)
    net.both = True
    before = [p.detach().clone() for p in net.parameters()]
    for _ in range(2):
        optimizer.step(closure_of(net, optimizer, x, y))
    for p, start in zip(net.parameters(), before, strict=True):
        assert p.isfinite().all()
        assert not torch.equal(p, start)


@pytest.mark.parametrize("parts", [p for p in COMPOSITIONS if "transport" in p], ids=str)
@pytest.mark.parametrize("options", [{"rho": 0.0}, {"start_step": 1}])
def test_a_transport_knows_the_gradient_where_nothing_is_perturbed(parts, options):
    """theta - lr * T g, T of that same g."""
    torch.manual_seed(6)
    net = nn.Linear(6, 5)
    x, y = torch.randn(8, 6), torch.randint(0, 5, (8,))
    mean_loss(net(x), y).backward()
    g = {name: p.grad.clone() for name, p in net.named_parameters()}
    judge = METRICS[parts["transport"]](*[net] * (parts["transport"] in ("llqr", "adaptive")))
    judge.observe(g)
    expected = {name: p.detach() - 0.05 * judge.apply(g)[name] for name, p in net.named_parameters()}
    optimizer = _composed(net, torch.optim.SGD(net.parameters(), lr=0.05), **parts, **options)
    optimizer.step(closure_of(net, optimizer, x, y))
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name])


def test_a_shared_metric_sees_each_gradient_once():
    """At theta, of every parameter, also of those that are not perturbed."""
    seen = []

    class Watching(Metric):
        def observe(self, gradients):
            seen.append({name: g.clone() for name, g in gradients.items()})

    net = nn.Linear(6, 5)
    x, y = torch.randn(8, 6), torch.randint(0, 5, (8,))
    mean_loss(net(x), y).backward()
    g = {name: p.grad.clone() for name, p in net.named_parameters()}
    metric = Watching()
    groups = [{"params": [net.weight]}, {"params": [net.bias], "rho": 0.0}]
    optimizer = SharpnessAware(torch.optim.SGD(groups, lr=0.1), rho=0.1, probe=metric, transport=metric, model=net)
    optimizer.step(closure_of(net, optimizer, x, y))
    assert len(seen) == 1
    assert identical(seen[0], g)
