"""A data set, a network and an optimizer of one's own, for train.py (docs/extending.md)."""

import numpy as np
import torch
from torch import nn

from llqr_sam import plugins


@plugins.dataset("rings")
def rings(path):
    """Noisy 16 x 16 images of a ring; the class is its radius."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 1500)
    distance = np.hypot(*np.mgrid[-8:8, -8:8])
    ring = np.abs(distance - 2 * labels[:, None, None]) < 1
    images = (60 * ring + random.uniform(0, 190, ring.shape)).astype(np.uint8)
    return images[:1000], labels[:1000], images[1000:], labels[1000:]


@plugins.network("mlp")
def mlp(classes, *, channels, image_size):
    inputs = nn.Linear(channels * image_size**2, 64)
    return nn.Sequential(nn.Flatten(), inputs, nn.ReLU(), nn.Linear(64, classes))


@plugins.optimizer("signum")
class Signum(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, weight_decay=0.0, momentum=0.9):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * mean.sign())
        return loss
