from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.engine.records.weights import weights_sha256
from llqr_sam.engine.tasks.classification import evaluate

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
