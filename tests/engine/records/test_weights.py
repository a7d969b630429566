from __future__ import annotations

import pytest
import torch
from torch import nn

from llqr_sam.engine.loop.losses import all_finite
from llqr_sam.engine.records.provenance import weights_sha256


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 5))


def test_all_finite_sees_parameters_and_buffers(network: nn.Module) -> None:
    assert all_finite(network)
    for name in ("4.weight", "1.running_var"):
        tensor = network.state_dict()[name].flatten()
        kept = tensor[0].clone()
        tensor[0] = float("nan")
        assert not all_finite(network)
        tensor[0] = kept
    assert all_finite(network)


def test_the_hash_is_of_the_bits_alone(network: nn.Module) -> None:
    state = network.state_dict()
    expected = weights_sha256(state)
    assert weights_sha256(dict(reversed(state.items()))) == expected
    assert weights_sha256(nn.Sequential(*network).to(memory_format=torch.channels_last).state_dict()) == expected


@pytest.mark.parametrize("change", ["value", "sign of zero", "name", "dtype", "shape"])
def test_the_hash_sees_every_change(change: str) -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.ones((), dtype=torch.int64), "c": torch.ones(2, dtype=torch.bfloat16)}
    other = dict(base)
    if change == "value":
        other["b"] = torch.full((), 2)
    elif change == "sign of zero":
        other["a"] = -base["a"]
    elif change == "name":
        other["d"] = other.pop("c")
    elif change == "dtype":
        other["a"] = base["a"].to(torch.int32)
    else:
        other["a"] = base["a"].reshape(3, 2)
    assert weights_sha256(other) != weights_sha256(base)
