"""Optimizers over the small networks, and their steps."""

from __future__ import annotations

import torch

from llqr_sam import LLQR, Friendly, GradientNoise, SharpnessAware, VarianceSuppressed
from tests.methods.networks import mean_loss


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def closure_of(net, optimizer, x, y):
    def closure():
        optimizer.zero_grad()
        loss = mean_loss(net(x), y)
        loss.backward()
        return loss

    return closure


def identical(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def _llqr_sam(net, structure="kfac", **options):
    metric = LLQR(net, structure=structure)
    return SharpnessAware(sgd(net), rho=0.1, probe=metric, transport=metric, **options)


METHODS = {
    "sam": lambda n: SharpnessAware(sgd(n), rho=0.1, model=n),
    "f_sam": lambda n: SharpnessAware(sgd(n), rho=0.1, direction=Friendly(), model=n),
    "info_sam": lambda n: SharpnessAware(sgd(n), rho=0.1, probe=GradientNoise(), model=n),
    "llqr_sam": _llqr_sam,
    "llqr_probe_sam": lambda n: SharpnessAware(sgd(n), rho=0.1, probe=LLQR(n, structure="kfac")),
    "llqr_f_sam": lambda n: _llqr_sam(n, direction=Friendly()),
    "llqr_f_sam_diagonal": lambda n: _llqr_sam(n, structure="diagonal", direction=Friendly()),
    "adamw": lambda n: SharpnessAware(
        torch.optim.AdamW(n.parameters()), rho=0.1, direction=VarianceSuppressed(), model=n
    ),
}
