"""Curvature in chunks is the curvature of the whole, or it is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from llqr_sam import LLQR, Bernoulli, Categorical, Gaussian
from llqr_sam.methods.curvature.divergence import DivergenceCurvature
from tests.methods.networks import NETWORKS, mean_loss
from tests.methods.padded import KEPT, WAYS, C, N, T, dense_fisher, network, padded_labels

KINDS = ["ngd_sum", "ngd_mean", "newton"]


def _at(net, kind, chunk_size, inputs, targets, loss_fn, likelihood=None):
    divergence, _, reduction = kind.partition("_")
    curvature = DivergenceCurvature(net, divergence, reduction, likelihood or Categorical(), chunk_size)
    return curvature.at(inputs, targets, loss_fn)


def _assert_the_whole(net, kind, chunk_size, inputs, targets, loss_fn, likelihood=None):
    """The whole is one chunk, which has no weight to be wrong."""
    whole, chunked = (_at(net, kind, size, inputs, targets, loss_fn, likelihood) for size in (10**6, chunk_size))
    v = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    expected = whole.product(v)
    for n, h in chunked.product(v).items():
        torch.testing.assert_close(h, expected[n], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(chunked.gradient[n], whole.gradient[n], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "conv", "transformer"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 100])
def test_equals_the_whole(name, kind, chunk_size):
    """Chunks that divide the minibatch, that do not, and one that holds it all."""
    net, x, y = NETWORKS[name]()
    _assert_the_whole(net, kind, chunk_size, x, y, mean_loss)


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("flat_targets", "ignore_index")])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_size", [1, 3])
def test_equals_the_whole_with_padding(way, kind, chunk_size):
    """The mean over tokens is not the mean of the chunks' means, whose shares differ with their padding."""
    padded = WAYS[way]
    net, x = network(padded.flat)
    targets = padded.targets(padded_labels())
    _assert_the_whole(net, kind, chunk_size, x, targets, padded.loss_fn, padded.likelihood)


def test_the_gradient_and_fisher_matrix_are_those_by_hand():
    """One token after another: g is the mean over kept tokens, H the sum or mean of J' (diag p - p p') J."""
    net, x = network()
    labels, plain = padded_labels(), WAYS["plain"]
    parameters = list(net.parameters())
    losses = [cross_entropy(net(x)[i, t], labels[i, t]) for i, t in KEPT.nonzero().tolist()]
    g = torch.cat([p.flatten() for p in torch.autograd.grad(sum(losses) / KEPT.sum(), parameters)])
    v = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    h = dense_fisher(net, x, KEPT) @ torch.cat([t.flatten() for t in v.values()])
    for kind, scale in (("ngd_sum", 1), ("ngd_mean", int(KEPT.sum()))):
        chunked = _at(net, kind, 3, x, labels, plain.loss_fn)
        actual = torch.cat([t.flatten() for t in chunked.product(v).values()])
        torch.testing.assert_close(actual, h / scale, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(torch.cat([t.flatten() for t in chunked.gradient.values()]), g, rtol=1e-10, atol=0)


def _per_sentence(outputs, labels):
    """The mean over sentences of the mean over their tokens."""
    losses = cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="none").unflatten(0, (-1, T))
    return (losses.sum(1) / (labels >= 0).sum(1)).mean()


def _classes_weighted(outputs, labels):
    weight = torch.tensor([1.0, 5.0, 2.0], dtype=outputs.dtype)
    return cross_entropy(outputs.flatten(0, 1), labels.flatten(), weight=weight)


def _summed(outputs, labels):
    return cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="sum")


@pytest.mark.parametrize("loss_fn", [_per_sentence, _classes_weighted, _summed])
@pytest.mark.parametrize("kind", KINDS)
def test_every_weighted_mean_is_reproduced(loss_fn, kind):
    net, x = network()
    _assert_the_whole(net, kind, 3, x, padded_labels(), loss_fn)


@pytest.mark.parametrize("likelihood", [Gaussian(), Bernoulli()])
@pytest.mark.parametrize("kind", KINDS)
def test_other_likelihoods(likelihood, kind):
    net, x = network()
    targets = torch.rand(N, T, C, dtype=torch.float64)
    _assert_the_whole(net, kind, 3, x, targets, lambda z, t: (z - t).square().mean(), likelihood)


def _all_padding(labels):
    labels = labels.clone()
    labels[1] = -100
    return labels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["plain", "mapping"])
def test_a_chunk_of_nothing_but_padding_adds_nothing(way, kind):
    """Its own mean is 0 / 0."""
    net, x = network()
    targets = WAYS[way].targets(_all_padding(padded_labels()))
    _assert_the_whole(net, kind, 1, x, targets, WAYS[way].loss_fn, WAYS[way].likelihood)


class _Scaled(nn.Linear):
    """A linear layer with things beside its inputs."""

    def forward(self, x, scale=1.0, flag=True, extra=None):
        if isinstance(x, list):
            x = x[0] + x[1]
        scale = scale if isinstance(scale, float) or scale.ndim < 2 else scale.sum(0, keepdim=True)
        return super().forward(x) * scale if flag else x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "inputs",
    [
        lambda x: {"x": x, "scale": torch.tensor(2.0).double()},
        lambda x: {"flag": True, "extra": None, "x": x},
        lambda x: {"scale": 0.5, "x": [x, 2 * x], "extra": {"ids": [torch.arange(7)]}},
        lambda x: ([x, -x], torch.full((5,), 3.0).double()),
    ],
)
def test_nests_are_split_and_the_rest_is_passed_on(inputs, kind):
    net = _Scaled(3, 5).double()
    x, y = torch.randn(7, 3).double(), torch.randint(0, 5, (7,))
    _assert_the_whole(net, kind, 3, inputs(x), y, mean_loss)


LOSS = r"chunk_size=3 does not fit this minibatch of 5: the loss is no mean over samples or tokens"
OUTPUTS = "chunk_size=3 does not fit this minibatch of 5: the outputs of a chunk are not its rows"


def _contrast(outputs, targets):
    """Every sample is compared with every other."""
    return cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)))


def _root(outputs, targets):
    return mean_loss(outputs, targets).sqrt()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_size", [1, 3])
def test_a_loss_between_samples_is_refused(kind, chunk_size):
    """A sample by itself has nothing to be compared with, and its gradient is 0."""
    net, x, y = nn.Linear(3, 5).double(), torch.randn(5, 3).double(), torch.randint(0, 5, (5,))
    with pytest.raises(ValueError, match=LOSS.replace("3", str(chunk_size))):
        _at(net, kind, chunk_size, x, y, _contrast)


@pytest.mark.parametrize("kind", KINDS)
def test_what_depends_on_no_output_counts_once(kind):
    """Beside a mean it is in every chunk's loss, and their shares are 1 together; beside a sum it would double."""
    net, x, y = nn.Linear(3, 5).double(), torch.randn(5, 3).double(), torch.randint(0, 5, (5,))
    _assert_the_whole(net, kind, 3, x, y, lambda z, t: mean_loss(z, t) + 0.1)
    with pytest.raises(ValueError, match="the losses of the chunks do not add up to that of the whole"):
        _at(net, kind, 3, x, y, lambda z, t: cross_entropy(z, t, reduction="sum") + 0.1)


@pytest.mark.parametrize("divergence", ["ngd", "newton"])
def test_a_minibatch_that_is_not_finite_is_not_refused_but_not_learned_from(divergence):
    net, x, y = NETWORKS["mlp"]()
    metric = LLQR(net, divergence=divergence, inner_steps=1, chunk_size=5)
    x[0] = torch.nan
    assert not metric.refresh(x, y, mean_loss).accepted


def test_weights_that_depend_on_the_outputs_are_refused_where_they_count():
    """g of a root of a mean is a weighted sum of the chunks' g; its Hessian has a term between chunks."""
    net, x, y = nn.Linear(3, 5).double(), torch.randn(5, 3).double(), torch.randint(0, 5, (5,))
    _assert_the_whole(net, "ngd_sum", 3, x, y, _root)
    with pytest.raises(ValueError, match=LOSS):
        _at(net, "newton", 3, x, y, _root)


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_with_as_many_rows_by_chance_is_refused(kind):
    """A table ``[5, 5]`` beside five samples is cut like them, which nothing but the outputs can show."""
    net, x, y = _Scaled(3, 5).double(), torch.randn(5, 3).double(), torch.randint(0, 5, (5,))
    inputs = {"x": x, "scale": torch.rand(5, 5).double()}
    with pytest.raises(ValueError, match=OUTPUTS):
        _at(net, kind, 3, inputs, y, mean_loss)
    _assert_the_whole(net, kind, 3, {"x": x[:4], "scale": inputs["scale"]}, y[:4], mean_loss)


class _Mixing(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0))


def test_a_network_that_mixes_samples_is_refused():
    with pytest.raises(ValueError, match=OUTPUTS):
        _at(_Mixing(3, 5).double(), "ngd_sum", 3, torch.randn(5, 3).double(), torch.zeros(5).long(), mean_loss)


def test_outputs_without_a_row_for_each_sample_are_refused():
    class Pooled(nn.Linear):
        def forward(self, x):
            return super().forward(x)[:2]

    with pytest.raises(ValueError, match="minibatch of 5: the outputs have no row for each sample"):
        _at(Pooled(3, 5), "ngd_sum", 3, torch.randn(5, 3), torch.zeros(2).long(), mean_loss)


def test_inputs_without_samples_are_named():
    with pytest.raises(ValueError, match="chunk_size=3 needs inputs with a tensor of samples, and there is none"):
        _at(nn.Linear(3, 5), "ngd_sum", 3, {"flag": True, "scale": torch.tensor(1.0)}, None, mean_loss)


@pytest.mark.parametrize("divergence", ["ngd", "newton"])
def test_single_precision_is_no_reason_to_refuse(divergence):
    """Kernels differ with the batch size, in their last digits."""
    net, x, y = NETWORKS["conv"]()
    metric = LLQR(net.float(), divergence=divergence, inner_steps=2, chunk_size=4)
    assert metric.refresh(x.float(), y, mean_loss).accepted


def test_half_precision_is_no_reason_to_refuse():
    net, x, y = NETWORKS["mlp"]()
    metric = LLQR(net.bfloat16(), inner_steps=2, chunk_size=5)
    assert metric.refresh(x.bfloat16(), y, mean_loss).accepted


def test_targets_without_a_row_for_each_sample_are_refused():
    """Flat targets are passed on whole to every chunk, and torch's loss says that they do not fit."""
    net, x = network()
    with pytest.raises(ValueError, match="to match target batch_size"):
        _at(net, "ngd_sum", 3, x, padded_labels().flatten(), WAYS["plain"].loss_fn)
