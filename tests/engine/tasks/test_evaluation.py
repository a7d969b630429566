from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.engine.tasks.evaluation import all_finite, evaluate, weights_sha256

CPU = torch.device("cpu")


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 5))


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(50, 1, 4, 4, generator=generator), torch.randint(5, (50,), generator=generator)


def test_top1_and_loss_do_not_depend_on_the_batches(network: nn.Module, samples: tuple[Tensor, Tensor]) -> None:
    inputs, targets = samples
    outputs = network.eval()(inputs)
    expected = (outputs.argmax(1) == targets).float().mean().item() * 100, F.cross_entropy(outputs, targets).item()
    for size in (50, 16, 1):
        batches = zip(inputs.split(size), targets.split(size), strict=True)
        assert evaluate(network, batches, CPU) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_leaves_the_network_as_it_was(network: nn.Module, samples: tuple[Tensor, Tensor], training: bool) -> None:
    network.train(training)
    before = weights_sha256(network.state_dict())
    random = torch.get_rng_state()
    evaluate(network, [samples], CPU)
    assert network.training == training
    assert weights_sha256(network.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), random)


def test_bfloat16_is_close(network: nn.Module, samples: tuple[Tensor, Tensor]) -> None:
    assert evaluate(network, [samples], CPU, bfloat16=True)[1] == pytest.approx(
        evaluate(network, [samples], CPU)[1], rel=0.02
    )


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
