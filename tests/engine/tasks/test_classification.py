from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.engine.records.provenance import weights_sha256
from llqr_sam.engine.tasks.classification import Classification
from llqr_sam.engine.tasks.task import Scores

CPU = torch.device("cpu")


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 5))


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(50, 1, 4, 4, generator=generator), torch.randint(5, (50,), generator=generator)


@pytest.fixture
def evaluate(make_settings: Any, network: nn.Module) -> Callable[..., Scores]:
    """``evaluate(batches, **precision)``: the scores of the network."""

    def scores(batches: Iterable[tuple[Tensor, Tensor]], **precision: Any) -> Scores:
        task = Classification(make_settings(**precision))
        return task.evaluate(network, SimpleNamespace(test=batches), 1, CPU)  # type: ignore[arg-type]

    return scores


def test_top1_and_loss_do_not_depend_on_the_batches(evaluate: Any, network: nn.Module, samples: Any) -> None:
    inputs, targets = samples
    outputs = network.eval()(inputs)
    top1, loss = (outputs.argmax(1) == targets).float().mean() * 100, F.cross_entropy(outputs, targets)
    for size in (50, 16, 1):
        found = evaluate(zip(inputs.split(size), targets.split(size), strict=True))
        assert (found.top1, found.test_loss) == pytest.approx((top1.item(), loss.item()), rel=1e-5)


def test_leaves_the_weights_as_they_were(evaluate: Any, network: nn.Module, samples: tuple[Tensor, Tensor]) -> None:
    before = weights_sha256(network.train().state_dict())
    random = torch.get_rng_state()
    evaluate([samples])
    assert weights_sha256(network.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), random)


def test_bfloat16_is_close(evaluate: Any, samples: tuple[Tensor, Tensor]) -> None:
    plain, rounded = evaluate([samples]).test_loss, evaluate([samples], autocast="bfloat16").test_loss
    assert rounded == pytest.approx(plain, rel=0.02)
    assert rounded != plain
