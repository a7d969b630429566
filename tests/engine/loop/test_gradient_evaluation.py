from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llqr_sam.engine.loop.gradient_evaluation import GradientEvaluation
from llqr_sam.engine.measurements.stopwatch import Stopwatch

CPU = torch.device("cpu")


@pytest.fixture
def network() -> nn.Module:
    """Without batch-norm, so that samples do not see each other; float64."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 5)).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(7, 1, 4, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(5, (7,), generator=generator)


def smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, label_smoothing=0.1)


def minibatch(network: nn.Module, accumulate: int = 1, bfloat16: bool = False) -> GradientEvaluation:
    return GradientEvaluation(
        network, smoothed, network.zero_grad, Stopwatch(CPU), CPU, bfloat16=bfloat16, accumulate=accumulate
    )


def gradient(network: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("accumulate", [2, 3, 7])
def test_micro_batches_give_the_whole_batchs_gradient_and_loss(
    network: nn.Module, batch: tuple[Tensor, Tensor], accumulate: int
) -> None:
    """Seven samples do not split evenly: the weights must be the shares, not 1/k."""
    whole, split = minibatch(network), minibatch(network, accumulate)
    whole.take(*batch)
    expected_loss = whole()
    expected = gradient(network).clone()
    split.take(*batch)
    assert split().item() == pytest.approx(expected_loss.item(), rel=1e-13)
    assert torch.allclose(gradient(network), expected, rtol=1e-12, atol=1e-14)


def test_it_is_plain_autograd(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    closure = minibatch(network)
    closure.take(*batch)
    loss = closure()
    expected = smoothed(network(batch[0]), batch[1])
    gradients = torch.autograd.grad(expected, list(network.parameters()))
    assert torch.equal(loss, expected.detach())
    assert torch.equal(gradient(network), torch.cat([part.flatten() for part in gradients]))


def test_gradients_do_not_pile_up_over_passes(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    closure = minibatch(network, accumulate=2)
    closure.take(*batch)
    closure()
    first = gradient(network).clone()
    closure()
    assert torch.equal(gradient(network), first)


def test_the_loss_is_that_of_the_first_pass(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    closure = minibatch(network)
    closure.take(*batch)
    at_theta = closure()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    assert closure() != at_theta
    assert torch.equal(closure.loss, at_theta)
    assert not closure.loss.requires_grad
    closure.take(*batch)
    assert closure() != at_theta


def test_passes_are_timed_apart(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    watch = Stopwatch(CPU)
    closure = GradientEvaluation(network, smoothed, network.zero_grad, watch, CPU)
    closure.take(*batch)
    closure()
    assert watch.seconds().first_pass > 0
    assert watch.seconds().second_pass == 0
    closure()
    assert watch.seconds().second_pass > 0


def test_works_where_the_caller_switched_gradients_off(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    closure = minibatch(network)
    closure.take(*batch)
    with torch.no_grad():
        closure()
    assert gradient(network).abs().sum() > 0


def test_bfloat16_is_for_the_network_alone(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    network, inputs = network.float(), batch[0].float()
    seen: list[torch.dtype] = []
    loss_fn: Callable[[Tensor, Tensor], Tensor] = lambda z, y: seen.append(z.dtype) or smoothed(z, y)  # type: ignore[func-returns-value]  # noqa: E731
    network[1].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    closure = GradientEvaluation(network, loss_fn, network.zero_grad, Stopwatch(CPU), CPU, bfloat16=True)
    closure.take(inputs, batch[1])
    loss = closure()
    assert seen == [torch.bfloat16, torch.float32]
    assert loss.dtype == torch.float32
    assert {parameter.grad.dtype for parameter in network.parameters() if parameter.grad is not None} == {torch.float32}
