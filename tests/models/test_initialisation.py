"""Starting weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from llqr_sam.models.initialisation import initialise_convolutions


def test_convolutions_are_kaiming_normal_by_fan_out() -> None:
    """Standard deviation sqrt(2 / (outputs * kernel area)): arXiv 1502.01852, backward form."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(64, 128, 3)
    initialise_convolutions(nn.Sequential(convolution))
    expected = math.sqrt(2 / (128 * 9))
    assert abs(convolution.weight.std().item() / expected - 1) < 0.02
    assert convolution.bias is not None
    assert convolution.bias.eq(0).all()


def test_batch_norm_is_the_identity_and_linear_is_left_alone() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Linear(4, 2))
    before = model[1].weight.clone()
    nn.init.constant_(model[0].weight, 3.0)
    initialise_convolutions(model)
    assert model[0].weight.eq(1).all()
    assert torch.equal(model[1].weight, before)
