"""The network of a refresh in bfloat16 or TF32, and U in float32 all the same."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llqr_sam import LLQR, UnsupportedModuleError
from llqr_sam.methods.curvature.point import WHOLE, Precision, precision_of
from llqr_sam.models.registry import build
from tests.methods.networks import NETWORKS, Flagged, mean_loss

DIVERGENCES = ["ngd", "newton"]
BFLOAT16 = torch.bfloat16


def _has_lstm_in_bfloat16() -> bool:
    """Whether the processor's kernels can run one (oneDNN's need AVX-512)."""
    try:
        with torch.autocast("cpu", BFLOAT16):
            nn.LSTM(4, 4)(torch.zeros(2, 1, 4))
            with torch.no_grad():
                nn.LSTM(4, 4)(torch.zeros(2, 1, 4))
    except RuntimeError:
        return False
    return True


RMS_NORM_IS_REPLAYED = pytest.mark.skipif(
    torch.__version__.startswith("2.6."),
    reason="torch 2.6 traces RMSNorm in bfloat16 with other values, so products take the slow way",
)


def single(name):
    """A network and minibatch in float32."""
    net, x, y = NETWORKS[name]()
    return net.float(), x.float() if x.is_floating_point() else x, y


def small(name):
    """A network of the suite, with a minibatch."""
    side, channels, count = {"small_cnn": (8, 1, 16), "resnet18": (32, 3, 16), "vit_tiny": (64, 3, 2)}[name]
    width = {"resnet18": 8}.get(name)
    net = build(name, classes=5, image_size=side, channels=channels, width=width)
    if name == "vit_tiny":
        net.blocks = net.blocks[:2]
    for p in net.parameters():
        if not p.any() and p.ndim > 1:  # a head that starts at zero has nothing below it to differentiate
            nn.init.normal_(p, std=0.1)
    x = torch.randn(count, channels, side, side)
    return net, x, torch.randint(0, 5, (count,))


def direction(net):
    torch.manual_seed(2)
    return {name: torch.randn(p.shape) for name, p in net.named_parameters()}


def product(net, x, y, **options):
    """g, H v and why the product was not replayed."""
    metric = LLQR(net, **options)
    curvature = metric._curvature.at(x, y, mean_loss)
    return curvature.gradient, curvature.product(direction(net)), metric._curvature.refusal


def distance(a, b):
    """|a - b| / |b|."""
    together = [torch.cat([t.flatten() for t in named.values()]) for named in (a, b)]
    return float((together[0] - together[1]).norm() / together[1].norm())


@pytest.mark.slow
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", ["mlp", "conv", "transformer", "recurrent", "small_cnn", "resnet18", "vit_tiny"])
def test_bfloat16_is_close_to_float32_and_replayed(name, divergence):
    """Rounding to 8 bits moves a number by up to 2^-9 of itself, a deep network's derivatives by percents.

    Second derivatives of an untrained one move by a fifth; a wrong derivative is off by all of itself.
    """
    if name == "recurrent" and not _has_lstm_in_bfloat16():
        pytest.skip("torch has no LSTM in bfloat16 for this processor")
    net, x, y = single(name) if name in NETWORKS else small(name)
    g, h, unreplayed = product(net, x, y, divergence=divergence)
    lower_g, lower_h, refusal = product(net, x, y, divergence=divergence, curvature_dtype=BFLOAT16)
    assert 1e-4 < distance(lower_g, g) < 0.1
    assert 1e-4 < distance(lower_h, h) < 0.3
    assert {t.dtype for named in (lower_g, lower_h) for t in named.values()} == {torch.float32}
    assert bool(refusal) == bool(unreplayed) == (name == "recurrent")  # the kernel of an LSTM has no forward mode


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("curvature_dtype", [None, "tf32", BFLOAT16])
def test_the_network_alone_is_under_autocast(curvature_dtype, chunk_size, divergence):
    """The loss, and with it the likelihood, gets float32; a caller's own autocast reaches neither."""
    in_network, in_loss = set(), set()

    class Watched(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            in_network.add((out.dtype, torch.is_autocast_enabled("cpu")))
            return out

    def loss_fn(z, y):
        in_loss.add((z.dtype, torch.is_autocast_enabled("cpu")))
        return mean_loss(z, y)

    net = Watched(4, 5)
    metric = LLQR(
        net, divergence=divergence, inner_steps=1, chunk_size=chunk_size, curvature_dtype=curvature_dtype, damping=0.1
    )
    with torch.autocast("cpu", BFLOAT16):
        metric.refresh(torch.randn(7, 4), torch.randint(0, 5, (7,)), loss_fn)
    lower = curvature_dtype is BFLOAT16
    assert in_network == {(BFLOAT16 if lower else torch.float32, lower)}
    assert in_loss == {(torch.float32, False)}


@pytest.mark.parametrize("curvature_dtype", [None, BFLOAT16])
def test_a_callers_autocast_changes_no_bit_of_u(curvature_dtype):
    net, x, y = single("conv")
    metrics = [LLQR(net, structure="kfac", inner_steps=3, curvature_dtype=curvature_dtype) for _ in range(2)]
    metrics[0].refresh(x, y, mean_loss)
    with torch.autocast("cpu", BFLOAT16):
        metrics[1].refresh(x, y, mean_loss)
    v = direction(net)
    for name, t in metrics[0].apply(v).items():
        assert torch.equal(t, metrics[1].apply(v)[name])


class Dtypes(TorchDispatchMode):
    """The floating-point dtypes of what is computed, inside the network's part and outside of it."""

    def __init__(self):
        super().__init__()
        self.depth, self.inside, self.outside = 0, set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        floats = {t.dtype for t in tree_leaves(found) if isinstance(t, torch.Tensor) and t.is_floating_point()}
        (self.inside if self.depth else self.outside).update(floats)
        return found


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac", "diag_kfac"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_u_learns_in_float32(divergence, structure, monkeypatch):
    """``products`` is open around all that is done with the network, and around nothing of U."""
    net, x, y = single("conv")
    dtypes = Dtypes()

    @contextlib.contextmanager
    def products(self, device):
        dtypes.depth += 1
        try:
            yield
        finally:
            dtypes.depth -= 1

    monkeypatch.setattr(Precision, "products", products)
    metric = LLQR(net, divergence=divergence, structure=structure, inner_steps=2, curvature_dtype=BFLOAT16)
    with dtypes:
        report = metric.refresh(x, y, mean_loss)
    assert report.accepted
    assert not report.unreplayed
    assert BFLOAT16 in dtypes.inside
    assert dtypes.outside - {torch.float64} == {torch.float32}, "norms alone are added up in float64, on a CPU"
    assert {f.dtype for factors in metric.named_factors().values() for f in factors.values()} == {torch.float32}


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_chunks_in_bfloat16(divergence):
    net, x, y = single("conv")
    g, h, _ = product(net, x, y, divergence=divergence)
    chunked_g, chunked_h, _ = product(net, x, y, divergence=divergence, chunk_size=4, curvature_dtype=BFLOAT16)
    assert distance(chunked_g, g) < 0.05
    assert distance(chunked_h, h) < 0.1


def test_samples_that_see_each_other_have_no_chunks_in_bfloat16_either():
    class Centred(nn.Linear):
        def forward(self, x):
            return super().forward(x - 0.5 * x.mean(0))

    metric = LLQR(Centred(4, 5), inner_steps=1, chunk_size=4, curvature_dtype=BFLOAT16)
    with pytest.raises(ValueError, match="the outputs of a chunk are not its rows"):
        metric.refresh(torch.randn(8, 4), torch.randint(0, 5, (8,)), mean_loss)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_trace_that_has_become_wrong_is_seen_in_bfloat16(divergence):
    net, x, y = Flagged(), torch.randn(7, 4), torch.randint(0, 5, (7,))
    metric = LLQR(net, divergence=divergence, inner_steps=1, curvature_dtype=BFLOAT16)
    assert not metric.refresh(x, y, mean_loss).unreplayed
    net.frozen = False
    found = metric._curvature.at(x, y, mean_loss).product(direction(net))
    assert distance(found, product(net, x, y, divergence=divergence)[1]) < 0.05


class TwoDerivatives(nn.Module):
    """An embedding whose forward mode moves the padding row, and whose backward pass does not."""

    def __init__(self):
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.randn(9, 6)), nn.Linear(6, 5)

    def forward(self, tokens):
        return self.last(torch.embedding(self.weight, tokens, 0).tanh().sum(1))


class HalfGradient(torch.autograd.Function):
    """A backward pass that autograd does not see into."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, u):
        (x,) = ctx.saved_tensors
        return u.detach() * (1 - x.detach().tanh() ** 2)


class Opaque(nn.Module):
    def forward(self, x):
        return HalfGradient.apply(x)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_derivatives_that_differ_are_seen_in_bfloat16(divergence):
    torch.manual_seed(3)  # one random product is compared, and a chance agreement is likelier than in float32
    tokens, y = torch.randint(0, 3, (6, 3)), torch.randint(0, 5, (6,))
    net = TwoDerivatives()
    report = LLQR(net, divergence=divergence, inner_steps=1, curvature_dtype=BFLOAT16).refresh(tokens, y, mean_loss)
    assert report.unreplayed
    opaque = nn.Sequential(nn.Linear(4, 6), Opaque(), nn.Linear(6, 5))
    with pytest.raises(UnsupportedModuleError, match=r"module 1 \(Opaque\)"):
        LLQR(opaque, divergence=divergence, curvature_dtype=BFLOAT16).refresh(torch.randn(6, 4), y, mean_loss)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.BatchNorm2d(8)])
def test_normalisations_between_products_are_replayed_in_bfloat16(norm, divergence):
    """Their forward mode returns float32, which the next convolution did not take."""
    net = nn.Sequential(nn.Conv2d(2, 8, 3), copy.deepcopy(norm), nn.SiLU(), nn.Conv2d(8, 5, 3), nn.Flatten())
    report = LLQR(net, divergence=divergence, inner_steps=1, curvature_dtype=BFLOAT16).refresh(
        torch.randn(6, 2, 5, 5), torch.randint(0, 5, (6,)), mean_loss
    )
    assert report.unreplayed == ""


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("layer", [nn.LayerNorm(8), pytest.param(nn.RMSNorm(8), marks=RMS_NORM_IS_REPLAYED)])
def test_layer_norms_between_products_are_replayed_in_bfloat16(layer, divergence):
    net = nn.Sequential(nn.Linear(4, 8), copy.deepcopy(layer), nn.GELU(), nn.Linear(8, 5)).bfloat16()  # as float32
    report = LLQR(net, divergence=divergence, inner_steps=1, curvature_dtype=BFLOAT16).refresh(
        torch.randn(6, 4), torch.randint(0, 5, (6,)), mean_loss
    )
    assert report.unreplayed == ""


@pytest.mark.parametrize("fails", [False, True])
def test_tf32_is_on_for_products_on_a_gpu_alone(fails):
    precision = precision_of("tf32", torch.float32)

    def switches():
        return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()

    before = switches()
    try:
        torch.backends.cudnn.allow_tf32 = False
        ending = pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext()
        with ending, precision.products(torch.device("cuda")):
            assert switches() == (True, "high")
            assert 1 / (not fails)
        assert switches() == (False, before[1])
        for other in (WHOLE, precision_of(BFLOAT16, torch.float32)):
            with other.products(torch.device("cuda")):
                assert switches() == (False, before[1])
        with precision.products(torch.device("cpu")):
            assert switches() == (False, before[1])
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_tf32_changes_nothing_on_a_cpu(divergence):
    net, x, y = single("conv")
    _, h, _ = product(net, x, y, divergence=divergence)
    _, lower, refusal = product(net, x, y, divergence=divergence, curvature_dtype="tf32")
    assert not refusal
    assert all(torch.equal(h[name], lower[name]) for name in h)


@pytest.mark.parametrize("value", [torch.float16, torch.float64, torch.float32, "bfloat16", "float32", 16])
def test_other_precisions_are_refused(value):
    with pytest.raises(
        ValueError, match=r"^curvature_dtype=.* is not known. Choose from: None, tf32, torch.bfloat16.$"
    ) as e:
        LLQR(nn.Linear(3, 2), curvature_dtype=value)
    assert str(value) in str(e.value)


@pytest.mark.parametrize("value", [BFLOAT16, "tf32"])
def test_a_model_in_double_precision_is_refused(value):
    with pytest.raises(ValueError, match=rf"^curvature_dtype={value} lowers float32, and this model is in float64"):
        LLQR(nn.Linear(3, 2).double(), curvature_dtype=value)


def test_copies_keep_the_precision():
    net, x, y = single("mlp")
    metric = LLQR(net, inner_steps=2, curvature_dtype=BFLOAT16)
    _, theirs = copy.deepcopy((net, metric))
    for each in (metric, theirs):
        each.refresh(x, y, mean_loss)
    for name, factors in metric.named_factors().items():
        assert all(torch.equal(f, theirs.named_factors()[name][key]) for key, f in factors.items())


def test_attention_under_autocast_is_torchs():
    """Up to the rounding of scores and weights, which torch's plain kernel keeps in float32."""
    from llqr_sam.methods.curvature.inference import PlainForms

    q, k, v = torch.randn(3, 2, 2, 5, 4)
    mask = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -1e4)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x, allowed = torch.randn(2, 5, 8), torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    calls = [
        lambda: functional.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda: attention(x, x, x, need_weights=False)[0],
    ]
    for call in calls:
        with torch.autocast("cpu", BFLOAT16):
            expected = call()
            with PlainForms():
                found = call()
        assert found.dtype == expected.dtype == BFLOAT16
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
        with PlainForms():
            assert torch.equal(call(), call())
            assert call().dtype == torch.float32
    assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() == allowed
