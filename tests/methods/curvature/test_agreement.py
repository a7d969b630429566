"""A likelihood that cannot be the loss's is named once, and one that can be never is."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llqr_sam import LLQR, Bernoulli, Categorical, Gaussian
from llqr_sam.methods.curvature.agreement import unfit
from tests.methods.networks import NETWORKS, mean_loss
from tests.methods.padded import WAYS, network, padded_labels

SQUARED = 'belongs to likelihood=gaussian, and U learns from the curvature of likelihood=categorical.*="gaussian"'
YES_OR_NO = 'belongs to likelihood=bernoulli, .*build LLQR with likelihood="bernoulli"'


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (nn.MSELoss(), f"MSELoss {SQUARED}"),
        (nn.SmoothL1Loss(), f"SmoothL1Loss {SQUARED}"),
        (F.mse_loss, f"mse_loss {SQUARED}"),
        (partial(F.huber_loss, delta=0.5), f"huber_loss {SQUARED}"),
        (nn.BCEWithLogitsLoss(), f"BCEWithLogitsLoss {YES_OR_NO}"),
        (F.binary_cross_entropy_with_logits, f"binary_cross_entropy_with_logits {YES_OR_NO}"),
        (lambda z, t: F.mse_loss(z, t), 'no function of a softmax over axis -1.*"gaussian".*"bernoulli"'),
        (lambda z, t: F.binary_cross_entropy_with_logits(z, t), "no function of a softmax over axis -1"),
    ],
)
def test_a_loss_of_no_softmax_is_named(loss_fn, message):
    """Torch's own by their names, in whatever form they are passed; others by their gradient."""
    outputs, targets = torch.randn(8, 3), torch.rand(8, 3)
    metric = LLQR(nn.Linear(4, 3), inner_steps=1)
    with pytest.warns(UserWarning, match=message) as warned:
        metric.refresh(torch.randn(8, 4), targets, loss_fn)
    assert warned[0].filename == __file__
    right = Bernoulli() if "binary" in message or "BCE" in message else Gaussian()
    assert unfit(right, loss_fn, outputs, targets) is None


@pytest.mark.parametrize("likelihood", [Gaussian(), Bernoulli()])
@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(), F.cross_entropy, partial(F.nll_loss, ignore_index=2)])
def test_a_softmax_loss_is_named(loss_fn, likelihood):
    complaint = unfit(likelihood, loss_fn, torch.randn(8, 3).log_softmax(-1), torch.randint(0, 3, (8,)))
    assert 'build LLQR with likelihood="categorical"' in complaint


@pytest.mark.parametrize("likelihood", [Categorical(), Bernoulli(), Gaussian()])
def test_probabilities_have_no_likelihood(likelihood):
    complaint = unfit(likelihood, nn.BCELoss(), torch.rand(8, 3), torch.rand(8, 3))
    assert "let the model return logits, train it with nn.BCEWithLogitsLoss" in complaint


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(), lambda z, t: F.cross_entropy(z, t)])
@pytest.mark.parametrize("soft", [True, False])
def test_classes_on_another_axis_are_named(loss_fn, soft):
    """Squares whose width is the number of classes, or soft targets: shapes alone do not tell."""
    outputs = torch.randn(2, 4, 4, 4)
    targets = torch.rand(2, 4, 4, 4).softmax(1) if soft else torch.randint(0, 4, (2, 4, 4))
    assert "build LLQR with likelihood=Categorical(axis=1)." in unfit(Categorical(), loss_fn, outputs, targets)
    assert unfit(Categorical(axis=1), loss_fn, outputs, targets) is None


@pytest.mark.parametrize("way", list(WAYS))
def test_padding_that_both_leave_out_is_no_complaint(way):
    padded = WAYS[way]
    net, x = network(padded.flat)
    assert unfit(padded.likelihood, padded.loss_fn, net(x), padded.targets(padded_labels())) is None


@pytest.mark.parametrize(
    ("way", "likelihood", "message"),
    [
        ("ignore_index", Categorical(), r"counts 20 of 20 .*leaves 9 of these out.*Categorical\(ignore_index=0\)\."),
        (
            "mapping",
            Categorical(),
            r"counts 20 of 20 .*leaves 9 of these out.*Categorical\(mask=\.\.\.\), where mask",
        ),
        ("tuple", Categorical(), r"counts 20 of 20 .*leaves 9 of these out.*Categorical\(mask=\.\.\.\)"),
        ("next_token", Categorical(), r"counts 11 of 20 .*leaves 4 of these out.*Categorical\(mask=\.\.\.\)"),
        (
            "plain",
            Categorical(mask=lambda z, t: t == 0),
            r"counts \d of 20 .*reads \d more.*Categorical\(mask=\.\.\.\)",
        ),
    ],
)
def test_padding_that_one_alone_leaves_out_is_named_once(way, likelihood, message):
    padded = WAYS[way]
    net, x = network(padded.flat)
    metric, targets = LLQR(net, inner_steps=1, likelihood=likelihood), padded.targets(padded_labels())
    with pytest.warns(UserWarning, match=message) as warned:
        metric.refresh(x, targets, padded.loss_fn)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.refresh(x, targets, padded.loss_fn)


def test_what_to_write_keeps_the_axis():
    outputs, targets = torch.randn(2, 3, 5), torch.tensor([[1, 2, 0, 0, 1], [2, 0, 0, 1, 1]])
    complaint = unfit(Categorical(axis=1), nn.CrossEntropyLoss(ignore_index=0), outputs, targets)
    assert complaint.endswith("leaves 4 of these out, as it does with padding; build LLQR with "
                              "likelihood=Categorical(ignore_index=0, axis=1).")  # fmt: skip
    assert unfit(Categorical(ignore_index=0, axis=1), nn.CrossEntropyLoss(ignore_index=0), outputs, targets) is None


def test_padding_is_named_when_the_first_comes():
    """No minibatch without it can tell."""
    net, x = network(flat=True)
    metric, loss_fn = LLQR(net, inner_steps=1), nn.CrossEntropyLoss(ignore_index=0)
    metric.refresh(x, torch.ones(20).long(), loss_fn)
    with pytest.warns(UserWarning, match="counts 20 of 20 .*leaves 1 of these out"):
        metric.refresh(x, torch.arange(20).clamp_max(1), loss_fn)


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda z, t: F.cross_entropy(z, t, label_smoothing=0.1),
        lambda z, t: ((1 - z.softmax(-1)[range(8), t]) ** 2 * F.cross_entropy(z, t, reduction="none")).mean(),
        lambda z, t: F.kl_div(z.log_softmax(-1), torch.full_like(z, 1 / 3), reduction="batchmean"),
        lambda z, t: F.nll_loss(z.log_softmax(-1), t),
        lambda z, t: F.cross_entropy(z.mul_(0.5), t),
    ],
    ids=["smoothed", "focal", "distilled", "nll", "in_place"],
)
@pytest.mark.parametrize("scale", [0.1, 1.0, 1e3])
def test_every_loss_of_a_softmax_is_a_categoricals(loss_fn, scale):
    """Also where float32 is certain and most of its gradient is 0."""
    assert unfit(Categorical(), loss_fn, scale * torch.randn(8, 3), torch.randint(0, 3, (8,))) is None


def test_a_small_penalty_on_the_logits_is_no_complaint():
    outputs, targets = torch.randn(8, 3), torch.randint(0, 3, (8,))
    penalised = lambda z, t: F.cross_entropy(z, t) + 1e-4 * z.logsumexp(-1).square().mean()  # noqa: E731
    assert unfit(Categorical(), penalised, outputs, targets) is None


def test_log_probabilities_are_a_categoricals():
    outputs = torch.randn(8, 3).log_softmax(-1)
    for loss_fn in (F.nll_loss, nn.NLLLoss(), lambda z, t: -z[range(8), t].mean()):
        assert unfit(Categorical(), loss_fn, outputs, torch.randint(0, 3, (8,))) is None


def test_an_own_likelihood_is_the_callers_business():
    class Poisson:
        def fisher(self, outputs, targets):
            return (lambda u: outputs.exp() * u), torch.tensor(len(outputs))

    net = nn.Linear(4, 3)
    LLQR(net, inner_steps=1, likelihood=Poisson()).refresh(torch.randn(8, 4), torch.rand(8, 3), nn.MSELoss())


@pytest.mark.parametrize(
    ("kind", "loss"), [(Gaussian, F.mse_loss), (Gaussian, F.l1_loss), (Bernoulli, F.binary_cross_entropy_with_logits)]
)
def test_outputs_that_only_the_loss_leaves_out_are_named(kind, loss):
    """Missing entries of a regression or of many labels; outputs that meet their targets are none."""
    missing = torch.rand(8, 3) < 0.3
    outputs, targets = torch.zeros(8, 3), (torch.arange(24).view(8, 3) % 2).float()

    def loss_fn(z, t):
        return loss(z[~missing], t[~missing])

    complaint = unfit(kind(), loss_fn, outputs, targets)
    assert f"counts 24 of 24 distributions, and the loss leaves {int(missing.sum())} of these out" in complaint
    assert f"likelihood={kind.__name__}(mask=...), where mask(outputs, targets) is True" in complaint
    assert unfit(kind(mask=lambda z, t: ~missing), loss_fn, outputs, targets) is None
    assert unfit(kind(), loss, outputs, targets) is None
    assert "reads" in unfit(kind(mask=lambda z, t: ~missing), loss, outputs, targets)


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_comparison_changes_nothing(name, chunk_size):
    """No warning for the usual losses, and no change to the network, its gradients or the random state."""
    net, x, y = NETWORKS[name]()
    metric = LLQR(net, inner_steps=1, chunk_size=chunk_size)
    state, seed = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.refresh(x, y, mean_loss)
    assert all(torch.equal(t, state[n]) for n, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), seed)


def test_a_loss_that_needs_more_than_its_arguments_is_not_compared():
    """One that reads what the forward pass left on the network can be evaluated there alone."""
    net = nn.Linear(4, 3)
    calls = []

    def loss_fn(outputs, targets):
        calls.append(None)
        if len(calls) > 1:
            raise AttributeError("nothing was left here")
        return F.cross_entropy(outputs, targets)

    assert LLQR(net, inner_steps=1).refresh(torch.randn(8, 4), torch.randint(0, 3, (8,)), loss_fn).accepted
    assert len(calls) == 2


def test_outputs_that_are_not_finite_tell_nothing():
    outputs = torch.full((8, 3), torch.nan)
    assert unfit(Categorical(), lambda z, t: F.cross_entropy(z, t), outputs, torch.randint(0, 3, (8,))) is None


def test_newton_asks_for_no_likelihood():
    net = nn.Linear(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LLQR(net, inner_steps=1, divergence="newton").refresh(
            torch.randn(8, 4), torch.rand(8, 3), lambda z, t: (z - t).square().mean()
        )


def test_a_warning_survives_a_refresh_that_fails():
    """The first chunk shows that the likelihood does not fit; a later chunk that raises must not lose the warning."""
    x, y = torch.randn(4, 3), torch.randint(0, 2, (4, 2)).float()
    metric = LLQR(nn.Linear(3, 2), inner_steps=1, chunk_size=2)
    loss_fn, calls = nn.BCEWithLogitsLoss(), []
    matrix = metric._curvature.matrix
    at = matrix.at

    def second_fails(point):
        calls.append(point)
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return at(point)

    matrix.at = second_fails
    with pytest.raises(torch.OutOfMemoryError):
        metric.refresh(x, y, loss_fn)
    with pytest.warns(UserWarning, match="BCEWithLogitsLoss|bernoulli"):
        metric.refresh(x, y, loss_fn)
