"""Networks and losses of other people: H v is the double backward pass's on the module's own parameters, in float64.

Each was wrong, died or said nothing once.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from llqr_sam import LLQR, UnsupportedModuleError
from llqr_sam.methods.curvature.inference import unchanged_attributes
from tests.methods.networks import Flagged, mean_loss

DIVERGENCES = ["ngd", "newton"]


def exact(net, x, y, loss_fn, divergence, vs):
    """g and H v of the module itself in inference mode, by double backward, v after v."""
    net = net.eval()
    parameters = list(net.parameters())
    vs = [[v[name] for name, _ in net.named_parameters()] for v in vs]
    z = net(*x) if isinstance(x, tuple) else net(x)
    gradient = torch.autograd.grad(loss_fn(z, y), parameters, create_graph=True, materialize_grads=True)
    products = []
    for v in vs:
        if divergence == "newton":
            pairs = [(g, t) for g, t in zip(gradient, v, strict=True) if g.requires_grad]
            gs, ts = zip(*pairs, strict=True)
            h = torch.autograd.grad(gs, parameters, ts, retain_graph=True, materialize_grads=True)
        else:
            u = torch.zeros_like(z, requires_grad=True)
            pulled = torch.autograd.grad(z, parameters, u, create_graph=True, materialize_grads=True)
            pairs = [(g, t) for g, t in zip(pulled, v, strict=True) if g.requires_grad]
            gs, ts = zip(*pairs, strict=True)
            (pushed,) = torch.autograd.grad(gs, [u], ts, retain_graph=True)
            p = z.detach().softmax(-1)
            m = p * pushed - p * (p * pushed).sum(-1, keepdim=True)
            h = torch.autograd.grad(z, parameters, m, retain_graph=True, materialize_grads=True)
        products.append([t.detach() for t in h])
    return [g.detach() for g in gradient], products


def check(net, x, y, divergence, loss_fn=mean_loss, *, replayed=None):
    """Two refreshes, the parameters having moved in between; the training mode and modules stay as they were."""
    torch.manual_seed(0)
    metric = LLQR(net, divergence=divergence, inner_steps=2)
    modes = [module.training for module in net.modules()]
    for _ in range(2):
        curvature = metric._curvature.at(x, y, loss_fn)
        vs = [{n: torch.randn_like(p) for n, p in net.named_parameters()} for _ in range(2)]
        products = [curvature.product(v) for v in vs]
        assert [module.training for module in net.modules()] == modes
        if replayed is not None:
            assert (metric._curvature.refusal == "") == replayed, metric._curvature.refusal
        copy.deepcopy(net)  # no tensor of a graph or a trace stays behind
        with unchanged_attributes(net):
            gradient, expected = exact(net, x, y, loss_fn, divergence, vs)
        for i, name in enumerate(curvature.gradient):
            torch.testing.assert_close(curvature.gradient[name].detach(), gradient[i], rtol=1e-9, atol=1e-12, msg=name)
            for h, theirs in zip(products, expected, strict=True):
                torch.testing.assert_close(h[name], theirs[i], rtol=1e-8, atol=1e-11, msg=name)
        del curvature
        assert metric.refresh(x, y, loss_fn).accepted
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.05 * torch.randn_like(p))


def blob(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# ---- activation checkpointing


class Noise(nn.Module):
    def forward(self, x):
        return x * (1 + torch.randn_like(x)) if self.training else x * 1.5


class Checkpointed(nn.Module):
    def __init__(self, inner, reentrant):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 6), inner, nn.Linear(6, 5)
        self.reentrant = reentrant

    def forward(self, x):
        return self.last(checkpoint(self.inner, self.first(x), use_reentrant=self.reentrant))


@pytest.mark.slow
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    "inner",
    [
        lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh(), Noise(), nn.Linear(6, 6), nn.Tanh()),
        lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Tanh()),
        lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh()),
        lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True),
    ],
)
def test_activation_checkpointing(inner, reentrant, divergence):
    """A second forward pass in another mode: H v was off by 0.35 and 0.75, and batch-norm moved by 0.19."""
    torch.manual_seed(1)
    net = Checkpointed(inner(), reentrant).double()
    plain = copy.deepcopy(net)
    plain.forward = lambda x: plain.last(plain.inner(plain.first(x)))
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    x, y = blob(7, 3, 4) if isinstance(net.inner, nn.TransformerEncoderLayer) else blob(7, 4), torch.randint(0, 5, (7,))
    loss_fn = (lambda z, y: mean_loss(z.mean(1), y)) if x.ndim == 3 else mean_loss
    ours = LLQR(net, divergence=divergence, inner_steps=3, inner_lr=0.1)
    theirs = LLQR(plain, divergence=divergence, inner_steps=3, inner_lr=0.1)
    reports = [metric.refresh(x, y, loss_fn) for metric in (ours, theirs)]
    assert not reports[0].unreplayed
    for name, factors in theirs.named_factors().items():
        torch.testing.assert_close(ours.named_factors()[name], factors, rtol=1e-10, atol=1e-12)
    for name, b in net.named_buffers():
        assert torch.equal(b, buffers[name])


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_checkpointing_in_bfloat16_and_in_sequence(divergence):
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4)))

    class InSequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return checkpoint_sequential(self.layers, 2, x, use_reentrant=False)

    net = InSequence().bfloat16()
    report = LLQR(net, divergence=divergence, inner_steps=2).refresh(
        torch.randn(6, 4, dtype=torch.bfloat16), torch.randint(0, 4, (6,)), mean_loss
    )
    assert report.accepted
    assert not report.unreplayed


# ---- sizes that depend on the data


class Experts(nn.Module):
    """A mixture of experts, each called on the tokens that chose it."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 3), nn.ModuleList(nn.Linear(4, 5) for _ in range(3))

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).topk(2)
        out = x.new_zeros(len(x), 5)
        for i, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == i)
            out.index_add_(0, token, weights[token, slot, None] * expert(x[token]))
        return out


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x):
        h = self.first(x)
        positive = x[:, 0] > 0
        out = torch.zeros_like(h)
        out[positive] = h[positive].tanh()
        return self.last(out)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x):
        h = self.first(x)
        return self.last(h.tanh() if x.sum() > 0 else h.sin())


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("net", [Experts, Masked, Branching])
def test_sizes_and_branches_that_depend_on_the_data(net, divergence):
    """The second refresh raised, since a trace holds the sizes of the first."""
    torch.manual_seed(1)
    net = net().double()
    metric = LLQR(net, divergence=divergence, inner_steps=2)
    for _ in range(4):
        x, y = blob(12, 4), torch.randint(0, 5, (12,))
        assert metric.refresh(x, y, mean_loss).unreplayed
    check(net, x, y, divergence)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_indices_have_a_shape_of_their_own(divergence):
    """An integer index is no mask, though torch tags both alike."""

    class Indexed(nn.Linear):
        def forward(self, x):
            return super().forward(x)[torch.arange(len(x)).flip(0)]

    check(Indexed(4, 5).double(), blob(6, 4), torch.randint(0, 5, (6,)), divergence, replayed=True)


# ---- tensors that modules keep


class Cached(nn.Module):
    """LeViT's attention biases: indexed once in inference mode, kept until ``train()``."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 5)
        self.biases = nn.Parameter(1e-3 * torch.randn(3))
        self.cache = {}

    def train(self, mode=True):
        super().train(mode)
        if mode:
            self.cache.clear()
        return self

    def forward(self, x):
        index = torch.tensor([0, 1, 2, 0, 1, 2])
        if self.training:
            bias = self.biases[index]
        else:
            if "bias" not in self.cache:
                self.cache["bias"] = self.biases[index]
            bias = self.cache["bias"]
        return self.last((self.first(x) + bias).tanh())


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_tensors_cached_in_inference_mode(divergence, mode):
    """Taken for constants: H v was off by 100 % on the biases, and later the graph was gone."""
    net = Cached().double()
    with torch.no_grad():
        net.eval()(blob(2, 4))  # as an evaluation between two refreshes leaves it
    check(net.train(mode), blob(7, 4), torch.randint(0, 5, (7,)), divergence, replayed=True)


class Counting(nn.Module):
    """Buffers and attributes that each call of ``forward`` advances."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 5)
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))
        self.count, self.seen = 0, []

    def forward(self, x):
        self.calls += 1
        self.count += 1
        self.feature = self.linear(x)
        self.seen.append(self.feature)
        return self.feature * (1 + self.calls).log()


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_refresh_leaves_nothing_on_the_modules(divergence, chunk_size):
    net, x, y = Counting().double(), blob(7, 4), torch.randint(0, 5, (7,))
    metric = LLQR(net, divergence=divergence, inner_steps=2, chunk_size=chunk_size)
    for _ in range(2):
        metric.refresh(x, y, mean_loss)
    assert (float(net.calls), net.count, net.seen) == (0, 0, [])
    assert not hasattr(net, "feature")
    copy.deepcopy(net)
    if chunk_size is None:
        check(net, x, y, divergence, replayed=True)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_inputs_that_forward_writes_to_stay(divergence):
    class Writing(nn.Linear):
        def forward(self, x):
            return super().forward(x.mul_(2.0))

    net, x = Writing(4, 5).double(), blob(6, 4)
    before = x.clone()
    assert not LLQR(net, divergence=divergence, inner_steps=2).refresh(x, torch.zeros(6).long(), mean_loss).unreplayed
    assert torch.equal(x, before)


# ---- gradients that do not come through the outputs or the registry


class Penalised:
    """A loss that knows the network."""

    def __init__(self, net):
        self.net = net

    def __call__(self, z, y):
        return functional.cross_entropy(z, y) + 0.1 * sum(p.pow(2).sum() for p in self.net.parameters())


class Auxiliary(nn.Module):
    """A balancing loss that ``forward`` leaves on the module, as mixtures of experts do."""

    def __init__(self):
        super().__init__()
        self.gate, self.last = nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        self.aux = weights.mean(0).square().sum()
        return self.last(x * weights)


class TiedOutside(nn.Module):
    """A weight that is also held in a plain list."""

    def __init__(self):
        super().__init__()
        self.e = nn.Linear(4, 4, bias=False)
        self.last = nn.Linear(4, 5)
        self.tied = [self.e.weight]

    def forward(self, x):
        return self.last((self.e(x).tanh() @ self.tied[0]).tanh())


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_penalty_in_the_loss(divergence):
    """The objective was 0 and accepted. A Fisher matrix has no part of the penalty; g and a Hessian do."""
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    check(net, blob(7, 4), torch.randint(0, 5, (7,)), divergence, Penalised(net), replayed=True)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_loss_that_forward_leaves_on_the_module(divergence):
    net = Auxiliary().double()
    x, y = blob(7, 4), torch.randint(0, 5, (7,))
    check_aux = LLQR(net, divergence=divergence, inner_steps=2)
    g = check_aux._curvature.at(x, y, lambda z, y: functional.cross_entropy(z, y) + net.aux).gradient
    net.zero_grad()
    (functional.cross_entropy(net(x), y) + net.aux).backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(g[name], p.grad, rtol=1e-10, atol=1e-12)
    for _ in range(2):
        report = check_aux.refresh(x, y, lambda z, y: functional.cross_entropy(z, y) + net.aux)
        assert report.accepted
        assert not report.unreplayed


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_parameter_held_outside_the_registry(divergence):
    net = TiedOutside().double()
    x, y = blob(7, 4), torch.randint(0, 5, (7,))
    g = LLQR(net, divergence=divergence)._curvature.at(x, y, mean_loss).gradient
    mean_loss(net(x), y).backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(g[name], p.grad, rtol=1e-10, atol=1e-12)
    metric = LLQR(net, divergence=divergence, inner_steps=2)
    assert metric.refresh(x, y, mean_loss).unreplayed
    net.e.weight.grad = None


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_half_precision_parameter_outside_the_registry_is_named(divergence):
    net = TiedOutside().bfloat16()
    with pytest.raises(UnsupportedModuleError, match=r"registry"):
        LLQR(net, divergence=divergence).refresh(torch.randn(7, 4).bfloat16(), torch.randint(0, 5, (7,)), mean_loss)

    class Cast(TiedOutside):
        def forward(self, x):
            return self.last(self.e(x).tanh() @ self.tied[0].to(self.last.weight.dtype))

    with pytest.raises(UnsupportedModuleError, match=r"parameter e.weight is used from outside the model's registry"):
        LLQR(Cast().bfloat16()).refresh(torch.randn(7, 4).bfloat16(), torch.randint(0, 5, (7,)), mean_loss)


def test_hooks_on_parameters_stay_out_of_the_curvature():
    """A hook that clips a gradient is no part of J'."""
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    plain = copy.deepcopy(net)
    net[0].weight.register_hook(lambda g: 0 * g)
    x, y = blob(7, 4), torch.randint(0, 5, (7,))
    ours, theirs = (LLQR(n, inner_steps=3, inner_lr=0.1) for n in (net, plain))
    for metric in (ours, theirs):
        metric.refresh(x, y, mean_loss)
    for name, factors in theirs.named_factors().items():
        torch.testing.assert_close(ours.named_factors()[name], factors)


# ---- forward mode


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x):
        h = self.first(x)
        with torch.no_grad():
            scale = 1 + 0.1 * h.square().mean().sqrt()
        return self.last(h.tanh() * scale)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_no_grad_inside_the_network(divergence):
    """Forward mode goes through it: H v was off by 1 %, which float32 hid."""
    check(Teacher().double(), blob(7, 4), torch.randint(0, 5, (7,)), divergence, replayed=True)
    net = Teacher()
    x, y = torch.randn(7, 4), torch.randint(0, 5, (7,))
    curvature = LLQR(net, divergence=divergence)._curvature.at(x, y, mean_loss)
    v = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    double = copy.deepcopy(net).double()
    _, (expected,) = exact(double, x.double(), y, mean_loss, divergence, [{n: t.double() for n, t in v.items()}])
    for h, theirs in zip(curvature.product(v).values(), expected, strict=True):
        torch.testing.assert_close(h.double(), theirs, rtol=1e-4, atol=1e-5)


class PaddedBelow(nn.Module):
    """An embedding by ``torch.embedding``, whose forward mode moves the padding row and whose backward does not."""

    def __init__(self):
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.randn(9, 6)), nn.Linear(6, 5)

    def forward(self, tokens):
        return self.last(torch.embedding(self.weight, tokens, 0).tanh().sum(1))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_operations_whose_two_derivatives_differ(divergence):
    """J' u of the trace was right and J v was not: off by 10 %."""
    torch.manual_seed(1)
    net = PaddedBelow().double()
    check(net, torch.randint(0, 3, (6, 3)), torch.randint(0, 5, (6,)), divergence, replayed=False)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_transformer_layers_are_replayed(divergence):
    """A zero tangent was taken out of a sum whose memory layout the next view needed."""

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
            self.layers, self.last = nn.TransformerEncoder(layer, 1), nn.Linear(6, 5)

        def forward(self, x):
            return self.last(self.layers(x).mean(1))

    x, y = blob(3, 4, 6), torch.randint(0, 5, (3,))
    assert not LLQR(Encoder().double(), divergence=divergence, inner_steps=1).refresh(x, y, mean_loss).unreplayed


ORDER = torch.tensor([5, 1, 3, 0, 2, 4])


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_constants_outside_the_registry_are_replayed(divergence):
    """An index that is a global, of which torch 2.6 notes no type in a trace."""

    class Ordered(nn.Linear):
        def forward(self, x):
            return super().forward(x)[ORDER]

    check(Ordered(4, 5).double(), blob(6, 4), torch.randint(0, 5, (6,)), divergence, replayed=True)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_backward_passes_that_take_a_logarithm(chunk_size):
    """logcumsumexp's takes that of u: at u = 0 its derivative is no number, though it is linear in u."""

    class Cumulated(nn.Linear):
        def forward(self, x):
            return super().forward(x).logcumsumexp(1)

    class Plain(nn.Linear):
        def forward(self, x):
            return super().forward(x).exp().cumsum(1).log()

    net, plain = Cumulated(4, 5).double(), Plain(4, 5).double()
    plain.load_state_dict(net.state_dict())
    x, y = blob(6, 4), torch.randint(0, 5, (6,))
    v = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    ours, theirs = (LLQR(n, chunk_size=chunk_size)._curvature.at(x, y, mean_loss).product(v) for n in (net, plain))
    for name in v:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_derivative_that_changes_while_the_values_stay(divergence):
    net, x, y = Flagged().double(), blob(7, 4), torch.randint(0, 5, (7,))
    metric = LLQR(net, divergence=divergence, inner_steps=2)
    assert not metric.refresh(x, y, mean_loss).unreplayed
    net.frozen = False
    curvature = metric._curvature.at(x, y, mean_loss)
    v = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    _, (expected,) = exact(copy.deepcopy(net), x, y, mean_loss, divergence, [v])
    for h, theirs in zip(curvature.product(v).values(), expected, strict=True):
        torch.testing.assert_close(h, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padded", [False, True])
def test_bags_of_words(mode, padded, divergence):
    """torch's kernel has no second derivative; a product needs none, and gets none."""

    class Bags(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(9, 4, mode=mode, padding_idx=2 if padded else None)
            self.last = nn.Linear(4, 5)

        def forward(self, words, offsets=None):
            return self.last(self.bag(words, offsets).tanh())

    net = Bags().double()
    words, y = torch.randint(0, 9, (6, 3)), torch.randint(0, 5, (6,))
    flat = words.flatten(), torch.arange(0, 18, 3)
    metric = LLQR(net, divergence=divergence, inner_steps=2)
    curvatures = [metric._curvature.at(inputs, y, mean_loss) for inputs in (words, flat)]
    assert not metric._curvature.refusal
    mean_loss(net(words), y).backward()
    v = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    products = [curvature.product(v) for curvature in curvatures]
    for name, p in net.named_parameters():
        for curvature in curvatures:
            torch.testing.assert_close(curvature.gradient[name], p.grad, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(products[0][name], products[1][name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_an_error_inside_a_trace_leaves_autograd_on(divergence):
    """That of a quantile turned it off for the rest of the process, and the network was refused."""

    class Quantile(nn.Linear):
        def forward(self, x):
            h = super().forward(x)
            return h + h.quantile(0.3, dim=1, keepdim=True)

    net = Quantile(4, 5).double()
    check(net, blob(6, 4), torch.randint(0, 5, (6,)), divergence)
    assert (2 * net.weight).requires_grad


# ---- what cannot be


def test_losses_that_are_no_mean_are_named():
    net, x, y = nn.Linear(4, 5), torch.randn(6, 4), torch.randint(0, 5, (6,))
    for divergence in DIVERGENCES:
        with pytest.raises(ValueError, match=r"loss_fn returns \[6\] losses.*reduction=\"none\""):
            LLQR(net, divergence=divergence).refresh(x, y, nn.CrossEntropyLoss(reduction="none"))
        with pytest.raises(TypeError, match="loss_fn must return the mean loss, a 0-d tensor, not float"):
            LLQR(net, divergence=divergence).refresh(x, y, lambda z, y: 1.0)
        with pytest.raises(ValueError, match="depends on no trainable parameter"):
            LLQR(net, divergence=divergence).refresh(x, y, lambda z, y: mean_loss(z.detach(), y))
        one = LLQR(net, divergence=divergence, inner_steps=1).refresh(x, y, lambda z, y: mean_loss(z, y).view(1))
        assert one.accepted


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_under_inference_mode(divergence):
    net, y = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)), torch.randint(0, 5, (7,))
    x = torch.randn(7, 4)
    expected = LLQR(net, divergence=divergence, inner_steps=2)
    expected.refresh(x, y, mean_loss)
    with torch.inference_mode():
        metric = LLQR(net, divergence=divergence, inner_steps=2)
        assert metric.refresh(x.clone(), y.clone(), mean_loss).accepted
    metric.refresh(x, y, mean_loss)
    expected.refresh(x, y, mean_loss)
    for name, factors in expected.named_factors().items():
        torch.testing.assert_close(metric.named_factors()[name], factors)


def test_parameters_without_gradients_or_values_are_named():
    with torch.inference_mode():
        net = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="parameter weight was made in inference mode"):
        LLQR(net)
    with pytest.raises(ValueError, match=r"0.weight is on cpu and 1.weight on meta.*one device"):
        LLQR(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, device="meta")))
    with pytest.raises(ValueError, match="meta device"):
        LLQR(nn.Linear(3, 2, device="meta")).refresh(torch.randn(4, 3), torch.zeros(4).long(), mean_loss)


def test_single_beside_double_precision_is_named():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).double())
    with pytest.raises(ValueError, match=r"0.weight is torch.float32 and 1.weight torch.float64"):
        LLQR(net)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_half_beside_single_precision(divergence):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 5)
            self.first.bfloat16()

        def forward(self, x):
            return self.last(self.norm(self.first(x.to(self.first.weight.dtype)).to(self.norm.weight.dtype)).tanh())

    report = LLQR(Mixed(), divergence=divergence, structure="kfac", inner_steps=2).refresh(
        torch.randn(7, 4), torch.randint(0, 5, (7,)), mean_loss
    )
    assert report.accepted


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_scripted_networks(divergence):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    scripted = torch.jit.script(copy.deepcopy(net))
    x, y = blob(7, 4), torch.randint(0, 5, (7,))
    ours, theirs = (LLQR(n, divergence=divergence, inner_steps=3, inner_lr=0.1) for n in (scripted, net))
    for _ in range(2):
        for metric in (ours, theirs):
            metric.refresh(x, y, mean_loss)
    for name, factors in theirs.named_factors().items():
        torch.testing.assert_close(ours.named_factors()[name], factors, rtol=1e-10, atol=1e-12)


# ---- traces


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_few_shapes_are_kept(divergence, monkeypatch):
    """Minibatches of 32 and 31 in turn cost a trace each time."""
    from llqr_sam.methods.curvature import trace as module

    made = []
    trace = module.ForwardTrace
    monkeypatch.setattr(module, "ForwardTrace", lambda point: made.append(point) or trace(point))
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
    metric = LLQR(net, divergence=divergence, inner_steps=1)
    for _ in range(3):
        for size in (7, 6, 5):
            assert not metric.refresh(torch.randn(size, 4), torch.randint(0, 5, (size,)), mean_loss).unreplayed
    assert len(made) == 3
