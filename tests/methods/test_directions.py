"""Ascent directions against their recursions and the authors' numbers."""

from __future__ import annotations

import pytest
import torch

from llqr_sam import Direction, Friendly, Metric, VarianceSuppressed
from tests.golden_numbers import arrays, flatten, unflatten

SAM = arrays("sam")


@pytest.mark.parametrize("decay", [0.6, 0.9])
def test_friendly_matches_the_authors_from_their_starting_average(decay):
    """Their average starts at zero, and eps[t] uses the average before step t."""
    friendly = Friendly(decay=decay)
    friendly.load_state_dict({"average": unflatten(torch.zeros(565, dtype=torch.float64))})
    for t, gradient in enumerate(SAM["fsam_grads"]):
        eps = Metric().probe(friendly(unflatten(gradient)), 0.1)
        expected = SAM[f"base_fsam_plain_beta{decay}_eps"][t]
        torch.testing.assert_close(flatten(eps), expected, rtol=1e-9, atol=1e-12)
        average = SAM[f"base_fsam_plain_beta{decay}_gbar"][t]
        torch.testing.assert_close(flatten(friendly.average), average, rtol=1e-9, atol=1e-12)


def test_friendly_starts_from_the_first_gradient():
    """Official F-SAM: first step m = g and v = g; then v = g - sigma m with the old m."""
    friendly = Friendly(decay=0.6, sigma=0.5)
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])
    assert torch.equal(friendly({"w": first})["w"], first)
    torch.testing.assert_close(friendly({"w": second})["w"], second - 0.5 * first)
    torch.testing.assert_close(friendly.average["w"], 0.6 * first + 0.4 * second)


def test_variance_suppressed_weights_the_new_gradient():
    vasso = VarianceSuppressed(theta=0.9)
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])
    torch.testing.assert_close(vasso({"w": first})["w"], first)
    torch.testing.assert_close(vasso({"w": second})["w"], 0.1 * first + 0.9 * second)


@pytest.mark.parametrize("build", [Friendly, VarianceSuppressed])
def test_each_parameter_starts_at_its_own_first_gradient(build):
    """Whenever that comes, and whatever the others have seen; a step without a gradient leaves its average alone."""
    late, alone, other = build(), build(), build()
    gradients = [torch.randn(3) for _ in range(4)]
    others = [torch.randn(2) for _ in range(4)]
    for step, (g, h) in enumerate(zip(gradients, others, strict=True)):
        together = late({"b": h, "w": g} if step in (1, 3) else {"b": h})
        assert torch.equal(together["b"], other({"b": h})["b"])
        if step in (1, 3):
            assert torch.equal(together["w"], alone({"w": g})["w"])
    assert torch.equal(late.average["w"], alone.average["w"])


@pytest.mark.parametrize("build", [Friendly, VarianceSuppressed])
def test_average_is_its_own_memory_and_round_trips(build):
    gradient = torch.tensor([1.0, 2.0])
    direction = build()
    direction({"w": gradient})
    gradient.zero_()  # the next backward pass overwrites the gradient in place
    assert direction.average["w"].tolist() == [1.0, 2.0]
    copy = build()
    copy.load_state_dict(direction.state_dict())
    following = {"w": torch.tensor([0.5, 0.1])}
    assert torch.equal(copy(following)["w"], direction(following)["w"])


def test_plain_direction_is_the_gradient():
    gradients = {"w": torch.ones(2)}
    assert Direction()(gradients) is gradients


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Friendly(decay=1.0), r"decay=1.0 must be in \[0, 1\)"),
        (lambda: VarianceSuppressed(theta=0.0), r"theta=0.0 must be in \(0, 1\]"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("build", [Friendly, VarianceSuppressed])
def test_averages_of_half_precision_gradients_are_single(build):
    """Or an average near its gradients would stand still, its steps below bfloat16's."""
    half, single = build(), build()
    for step in range(8):
        gradient = torch.full((3,), 1 + 0.01 * step).bfloat16()
        v, w = half({"w": gradient})["w"], single({"w": gradient.float()})["w"]
    assert torch.equal(v.float(), w)
    assert torch.equal(half.average["w"], single.average["w"])
